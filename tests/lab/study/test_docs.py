"""The study that docs/analysis.md shows, and the project's own studies, can be read."""

import re
from pathlib import Path

import pytest

from shd_vit.lab.study import read_study, resolve

ROOT = Path(__file__).parents[3]
OWN = sorted((ROOT / 'configs/fashion_mnist/study').glob('*.yaml'))


def test_the_study_that_the_docs_show(tmp_path, monkeypatch):
    (block,) = re.findall(r'```yaml\n(.*?)```', (ROOT / 'docs/analysis.md').read_text(), re.DOTALL)
    (tmp_path / 'mine.yaml').write_text(block)
    monkeypatch.chdir(ROOT)
    study = read_study(tmp_path / 'mine.yaml')
    assert len(study.rows) == 5 and len(study.tables[0].rows) == 5
    for row in study.rows.values():
        resolve(row)


@pytest.mark.parametrize('path', OWN, ids=lambda path: path.name)
def test_configs_of_the_projects_own_studies(path, monkeypatch):
    """Each row's config resolves, and no two rows of a study are the same training."""
    monkeypatch.chdir(ROOT)
    texts = [resolve(row).pretty_text for row in read_study(path).rows.values()]
    assert len(set(texts)) == len(texts) > 1
