"""The study that docs/analysis.md shows, and the project's own studies, can be read."""

import json
import re
from pathlib import Path

import pytest
from tooling import load_tool

from shd_vit.lab.study.configs import resolve
from shd_vit.lab.study.jobs import make_cells
from shd_vit.lab.study.launch import Launcher
from shd_vit.lab.study.plan import read_study
from shd_vit.lab.study.results import results, tables

ROOT = Path(__file__).parents[3]
OWN = sorted((ROOT / 'configs/fashion_mnist/study').glob('*.yaml'))


def test_the_studies_that_the_docs_show(tmp_path, monkeypatch):
    block, commands = re.findall(
        r'```yaml\n(.*?)```', (ROOT / 'docs/analysis.md').read_text(), re.DOTALL
    )
    (tmp_path / 'mine.yaml').write_text(block)
    monkeypatch.chdir(ROOT)
    study = read_study(tmp_path / 'mine.yaml')
    assert len(study.rows) == 5 and len(study.tables[0].rows) == 5
    for row in study.rows.values():
        resolve(row)
    (tmp_path / 'timm.yaml').write_text(commands)
    cells = make_cells(read_study(tmp_path / 'timm.yaml'), tmp_path, Launcher('none', 1, 'tools'))
    assert len(cells) == 6
    parse = load_tool('timm_train').parse_args
    for cell in cells:
        python, tool, *words = cell.job.command(
            cell.folder, cell.seed, Launcher('none', 1, 'tools')
        )
        args = parse(words)
        assert (python, tool, args.seed) == ('python', 'tools/timm_train.py', cell.seed)
        assert Path(args.output, args.experiment, 'summary.csv') == cell.folder / cell.job.metrics


@pytest.mark.parametrize('path', OWN, ids=lambda path: path.name)
def test_configs_of_the_projects_own_studies(path, monkeypatch):
    """Each row's config resolves, and no two rows of a study are the same training."""
    monkeypatch.chdir(ROOT)
    texts = [str(resolve(row).to_dict()) for row in read_study(path).rows.values()]
    assert len(set(texts)) == len(texts) > 1


@pytest.mark.parametrize('path', OWN, ids=lambda path: path.name)
def test_results_of_before_give_the_same_tables(path):
    """From the cells in docs/results, by today's statistics: those in the file and in the docs."""
    kept = json.loads((ROOT / f'docs/results/{path.stem}.json').read_text())
    found = results(read_study(path), kept['cells'])
    assert found['rows'] == kept['rows']
    for ours, theirs in zip(found['tables'], kept['tables'], strict=True):
        assert ours['rows'] == theirs['rows'] and ours['against'] == theirs['against']
        for name, interval in theirs['differences'].items():
            own, other = (
                [bound for bound in values.values() if bound is not None]
                for values in (ours['differences'][name], interval)
            )
            assert own == pytest.approx(other, rel=1e-9, abs=1e-12)
    assert tables(found) == tables(kept), 'to the last printed digit'
    text = (ROOT / 'docs/study.md').read_text()
    lines = [f'| {" | ".join(row)} |' for _, rows in tables(found) for row in rows[1:]]
    assert sum(line in text for line in lines) > len(lines) // 2
