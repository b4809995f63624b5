import json

import pytest
from lab.study.stub import CONFIG
from mmengine.config import Config

from shd_vit.errors import ConfigError
from shd_vit.lab.study.cell import Cell, CellFailed
from shd_vit.lab.study.configs import ConfigJob, config_file
from shd_vit.lab.study.plan import Row


@pytest.fixture
def make(tmp_path):
    (tmp_path / 'base.py').write_text(CONFIG)

    def cell(seed=3, top1=80.0, metric='accuracy/top1'):
        row = Row('a row', f'{tmp_path}/base.py', {'behaviour.top1': top1}, (3,))
        return Cell(row, seed, ConfigJob(row), tmp_path, metric)

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
    cfg = Config.fromfile(config_file(cell.folder))
    assert (cfg.randomness.seed, cfg.behaviour.top1) == (3, 80.0)
    # mmengine writes its own copy into the folder, by the same name.
    assert config_file(cell.folder).parent != cell.folder


def test_the_result_is_of_the_last_validation_of_all_runs(make):
    cell = make()
    cell.begin()
    cell.leave(60.0, failed=False)
    log(cell, '20250101_000000', trained(1.0), validated(90, 1), trained(2.0), '{"lr": 0.')
    log(cell, '20250102_000000', trained(6.0), validated(70, 2), trained(7.0), validated(71, 3))
    result = cell.finish(30.0)
    assert result['metrics'] == {'accuracy/top1': 71, 'accuracy/top5': 99.0}
    assert result['step'] == 3
    assert result['step_seconds'] == 4.0  # of 1, 2, 6, 7
    assert result['minutes'] == 1.5
    assert (result['row'], result['seed']) == ('a row', 3)
    assert result['config'].endswith('base.py')
    assert result['options'] == {'behaviour.top1': 80.0}
    assert cell.result() == result
    assert cell.state == 'finished'


@pytest.mark.parametrize(
    'lines, metric, reason',
    [
        ([trained(1.0), validated(1, 1), trained(1.0)], 'accuracy/top1', 'without a validation'),
        ([trained(1.0)], 'accuracy/top1', 'without a validation'),
        ([], 'accuracy/top1', 'without a validation'),
        ([trained(1.0), validated(1, 1), trained(1.0), validated(2, 2)], 'top1', "'top1' is not"),
        *(
            (
                [trained(1.0), validated(1, 1), validated(value, 2)],
                'accuracy/top1',
                'no finite number',
            )
            for value in (float('nan'), float('-inf'), None, '80', True, [80.0], 1e300, 10**400)
        ),
        ([validated(1, 1)], 'top1', "'top1' is not .* it logs accuracy/top1, accuracy/top5"),
    ],
)
def test_no_result_without_a_validation_of_the_last_weights(make, lines, metric, reason):
    cell = make(metric=metric)
    cell.begin()
    log(cell, '20250101_000000', *lines)
    with pytest.raises(CellFailed, match=reason):
        cell.finish(1.0)
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
    cell.finish(1.0)
    assert cell.state == make().state == 'finished'
    assert make(top1=81.0).state == 'changed'
    assert make(seed=4).state == 'waiting'


def test_what_another_config_made_is_kept_aside(make):
    make().begin()
    log(make(), '20250101_000000', validated(1, 1))
    make().finish(1.0)
    make(top1=81.0).begin()
    assert make(top1=81.0).state == 'interrupted'
    folder = make().folder
    assert (folder.with_name('seed3.old1') / 'result.json').exists()
    assert not (folder / '20250101_000000').exists()
    make(top1=82.0).begin()
    assert sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) == [
        'seed3', 'seed3.old1', 'seed3.old2',
    ]  # fmt: skip


FIELDS = [
    *(('cell.json', 'seconds', value) for value in (None, 'x', -1, [], True, 1e300, float('nan'))),
    *(('cell.json', 'state', value) for value in (None, 'done', 3, [])),
    *(('cell.json', 'config_hash', value) for value in (None, 3, [])),
    *(('result.json', 'metrics', value) for value in (None, [1], {'a': 'x'}, {'a': float('nan')})),
    *(('result.json', 'minutes', value) for value in (None, 'x', -1, 10**400, float('inf'))),
    *(('result.json', 'step_seconds', value) for value in ('x', [], float('nan'))),
    *(('result.json', 'seed', value) for value in (None, '3', 3.5)),
    *(('result.json', 'row', value) for value in (None, 3)),
    *(('result.json', 'config_hash', value) for value in (None, 3)),
]


@pytest.fixture
def finished(make):
    cell = make()
    cell.begin()
    log(cell, '20250101_000000', trained(1.0), validated(80, 1))
    cell.finish(1.0)
    return cell


@pytest.mark.parametrize('file, field, value', FIELDS)
def test_files_that_nobody_would_write_are_named_in_one_line(file, field, value, finished):
    path = finished.folder / file
    good = json.loads(path.read_text())
    for bad in ({**good, field: value}, {k: v for k, v in good.items() if k != field}):
        path.write_text(json.dumps(bad))
        with pytest.raises(ConfigError, match=rf'{file}: {field}=.* must be .* remove it') as error:
            _ = finished.state
        assert '\n' not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize('file', ['cell.json', 'result.json'])
@pytest.mark.parametrize(
    'text', ['', '{', '[]', '3', 'null', '[' * 10**5, '9' * 5000, '{"a": 1, "a": 2}', '\xff']
)
def test_files_of_a_cell_that_are_none(file, text, finished):
    (finished.folder / file).write_bytes(text.encode('latin-1'))
    with pytest.raises(ConfigError, match=file) as error:
        _ = finished.state
    assert '\n' not in str(error.value) and len(str(error.value)) < 500


def test_a_result_without_the_metric_that_is_asked_for_now(finished, make):
    with pytest.raises(ConfigError, match="no metric 'loss'; it has accuracy/top1, accuracy/top5"):
        _ = make(metric='loss').state
