import pytest
from lab.study.stub import journal, write_study, write_tools

from shd_vit.errors import ConfigError
from shd_vit.lab.study.jobs import make_cells
from shd_vit.lab.study.launch import Launcher
from shd_vit.lab.study.plan import read_study
from shd_vit.lab.study.processes import only_one, run_cells


class Watcher:
    def __init__(self, metric='accuracy/top1'):
        self.results, self.reasons, self.metric = {}, {}, metric

    def started(self, cell):
        pass

    def finished(self, cell, result):
        self.results[cell.name] = result['metrics'][self.metric]

    def failed(self, cell, reason):
        self.reasons[cell.name] = reason


@pytest.fixture
def run(tmp_path):
    """Runs all cells of a study that is given as text, row after row."""

    def run(text, jobs=1):
        study = read_study(write_study(tmp_path, text))
        watcher = Watcher()
        launcher = Launcher('none', jobs, write_tools(tmp_path / 'tools'))
        cells = sorted(
            make_cells(study, tmp_path, launcher), key=lambda c: list(study.rows).index(c.row.name)
        )
        run_cells(cells, launcher, watcher, tmp_path)
        return watcher, cells

    return run


def test_cells_are_trained_in_order_each_with_its_seed_and_options(run, tmp_path):
    watcher, cells = run(
        'seeds: [4, 0]\nrows: {b: CONFIG, a: {config: CONFIG, options: {behaviour.top1: 10}}}'
    )
    assert [line[:2] for line in journal(tmp_path / 'tools')] == [
        ['b', '4'], ['b', '0'], ['a', '4'], ['a', '0'],
    ]  # fmt: skip
    assert watcher.results == {'b, seed 4': 84, 'b, seed 0': 80, 'a, seed 4': 14, 'a, seed 0': 10}
    assert watcher.reasons == {}
    assert {cell.state for cell in cells} == {'finished'}


def test_a_cell_that_fails_is_reported_and_the_others_go_on(run):
    watcher, cells = run(
        'seeds: [0, 1]\noptions: {behaviour.fails: [0]}\nrows: {a: CONFIG, b: CONFIG}'
    )
    assert watcher.results == {'a, seed 1': 81, 'b, seed 1': 81}
    assert watcher.reasons.keys() == {'a, seed 0', 'b, seed 0'}
    reason = watcher.reasons['a, seed 0']
    assert reason.startswith('training ended with code 1\n')
    assert 'first line' in reason and 'ValueError: the reason' in reason
    assert [cell.state for cell in cells] == ['failed', 'finished'] * 2


def test_training_that_ends_unvalidated_fails(run):
    watcher, (cell,) = run('options: {behaviour.unvalidated: true}\nrows: {a: CONFIG}')
    assert 'without a validation of its last weights' in watcher.reasons['a, seed 0']
    assert cell.state == 'failed'


def test_jobs_run_side_by_side(run, tmp_path, monkeypatch):
    """Two at a time wait for each other: alone, neither would ever end."""
    monkeypatch.delenv('OMP_NUM_THREADS')
    monkeypatch.setattr('shd_vit.lab.study.launch._cores', lambda: 6)
    options = 'options: {behaviour.in_pairs: true}'
    watcher, _ = run(f'seeds: [0, 1, 2, 3]\n{options}\nrows: {{a: CONFIG}}', jobs=2)
    assert watcher.results == {f'a, seed {seed}': 80 + seed for seed in range(4)}
    assert {line[2] for line in journal(tmp_path / 'tools')} == {'3'}, 'half of the cores'


def test_an_interruption_ends_what_runs_and_starts_nothing_more(run, tmp_path, monkeypatch):
    def interrupt(watcher, cell, result):
        raise KeyboardInterrupt

    monkeypatch.setattr(Watcher, 'finished', interrupt)
    with pytest.raises(KeyboardInterrupt):
        run('seeds: [0, 1, 2]\noptions: {behaviour.waits: [1]}\nrows: {a: CONFIG}')
    assert ['a', '2'] not in [line[:2] for line in journal(tmp_path / 'tools')]
    folder = tmp_path / 'cells/a'
    assert (folder / 'seed0/result.json').exists()
    assert not (folder / 'seed1/result.json').exists()


def test_two_studies_do_not_train_in_one_folder(run, tmp_path):
    with (
        only_one(tmp_path),
        pytest.raises(ConfigError, match='a study, or a training that one left behind'),
    ):
        run('rows: {a: CONFIG}')
    assert journal(tmp_path / 'tools') == []
    run('rows: {a: CONFIG}')
