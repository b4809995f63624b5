import json

import pytest
from lab.study.stub import CONFIG
from mmengine.config import Config

from shd_vit.lab.study import Cell, CellFailed, Row


@pytest.fixture
def make(tmp_path):
    (tmp_path / 'base.py').write_text(CONFIG)

    def cell(seed=3, top1=80.0):
        cfg = Config.fromfile(tmp_path / 'base.py')
        cfg.behaviour.top1 = top1
        return Cell(Row('a row', 'base.py', {'behaviour.top1': top1}, (3,)), seed, cfg, tmp_path)

    return cell


def log(cell, run, *lines):
    folder = cell.folder / run / 'vis_data'
    folder.mkdir(parents=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / 'scalars.json').write_text('\n'.join(texts) + '\n')


def trained(time):
    return dict(lr=0.1, loss=1.0, time=time, epoch=1, step=1)


def validated(value, step):
    return {'accuracy/top1': value, 'accuracy/top5': 99.0, 'time': 50.0, 'step': step}


def test_the_config_is_written_down_with_the_seed(make, tmp_path):
    cell = make()
    cell.begin()
    assert cell.folder == tmp_path / 'cells/a_row/seed3'
    cfg = Config.fromfile(cell.config_file)
    assert (cfg.randomness.seed, cfg.behaviour.top1) == (3, 80.0)
    # mmengine writes its own copy into the folder, by the same name.
    assert cell.config_file.parent != cell.folder


def test_the_result_is_of_the_last_validation_of_all_runs(make):
    cell = make()
    cell.begin()
    cell.leave(60.0, failed=False)
    log(cell, '20250101_000000', trained(1.0), validated(90, 1), trained(2.0), '{"lr": 0.')
    log(cell, '20250102_000000', trained(6.0), validated(70, 2), trained(7.0), validated(71, 3))
    result = cell.finish('accuracy/top1', 30.0)
    assert result['metrics'] == {'accuracy/top1': 71, 'accuracy/top5': 99.0}
    assert result['step'] == 3
    assert result['step_seconds'] == 4.0  # of 1, 2, 6, 7
    assert result['minutes'] == 1.5
    assert (result['row'], result['seed'], result['config']) == ('a row', 3, 'base.py')
    assert result['options'] == {'behaviour.top1': 80.0}
    assert cell.result() == result
    assert cell.state == 'finished'


@pytest.mark.parametrize(
    'lines, metric, reason',
    [
        ([trained(1.0), validated(1, 1), trained(1.0)], 'accuracy/top1', 'without a validation'),
        ([trained(1.0)], 'accuracy/top1', 'without a validation'),
        ([], 'accuracy/top1', 'without a validation'),
        ([validated(1, 1)], 'top1', "'top1' is not .* it logs accuracy/top1, accuracy/top5"),
    ],
)
def test_no_result_without_a_validation_of_the_last_weights(make, lines, metric, reason):
    cell = make()
    cell.begin()
    log(cell, '20250101_000000', *lines)
    with pytest.raises(CellFailed, match=reason):
        cell.finish(metric, 1.0)
    assert cell.result() is None


def test_states(make):
    cell = make()
    assert cell.state == 'waiting'
    cell.begin()
    assert cell.state == 'interrupted'
    assert make(top1=81.0).state == 'changed', 'half a training of one config, half of another'
    cell.leave(1.0, failed=True)
    assert cell.state == 'failed'
    cell.begin()
    assert cell.state == 'interrupted'
    log(cell, '20250101_000000', validated(1, 1))
    cell.finish('accuracy/top1', 1.0)
    assert cell.state == make().state == 'finished'
    assert make(top1=81.0).state == 'changed'
    assert make(seed=4).state == 'waiting'


def test_what_another_config_made_is_kept_aside(make):
    make().begin()
    log(make(), '20250101_000000', validated(1, 1))
    make().finish('accuracy/top1', 1.0)
    make(top1=81.0).begin()
    assert make(top1=81.0).state == 'interrupted'
    folder = make().folder
    assert (folder.with_name('seed3.old1') / 'result.json').exists()
    assert not (folder / '20250101_000000').exists()
    make(top1=82.0).begin()
    assert sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) == [
        'seed3', 'seed3.old1', 'seed3.old2',
    ]  # fmt: skip
