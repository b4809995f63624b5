"""Runs written by hand, as LocalVisBackend writes them."""

import json

import pytest
from tooling import run_tool

from shd_vit.errors import ConfigError
from shd_vit.lab import curves


def write(work_dir, time, *records):
    folder = work_dir / time / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, records)) + '\n')
    return str(work_dir)


def logged(step, epoch, **losses):
    return dict(lr=1e-3, loss=sum(losses.values()), **losses, time=0.1, epoch=epoch, step=step)


def scored(epoch, top1):
    return {'accuracy/top1': top1, 'accuracy/top5': 99.0, 'time': 0.1, 'step': epoch}


def watched(step, **losses):
    """``name=(raw, weighted, gradient)``"""
    keys = 'raw', 'weighted', 'gradient'
    values = {
        f'monitor/{name}/{key}': value
        for name, row in losses.items()
        for key, value in zip(keys, row, strict=True)
    }
    return dict(values, step=step)


def distilled(work_dir):
    return write(
        work_dir,
        '20260101_000000',
        watched(10, cls=(2.0, 2.0, 1.0), shd=(3.0, 0.3, 0.01)),
        logged(10, 1, loss_cls=2.2, loss_shd=0.4),
        scored(1, 70.0),
        watched(20, cls=(1.0, 1.0, 0.5), shd=(2.0, 0.0, 0.0)),
        logged(20, 2, loss_cls=1.2, loss_shd=0.1),
        scored(2, 80.0),
    )


def lines(figure):
    """{(title of the column, y label of the row): {run: {x: y}}}"""
    places = [(axis, axis.get_subplotspec()) for axis in figure.axes]
    titles = {at.colspan.start: axis.get_title() for axis, at in places if at.rowspan.start == 1}
    rows = {at.rowspan.start: axis.get_ylabel() for axis, at in places if axis.get_ylabel()}
    return {
        (titles[at.colspan.start] if at.rowspan.start else 'accuracy', rows[at.rowspan.start]): {
            line.get_label(): dict(zip(*map(list, line.get_data()), strict=True))
            for line in axis.get_lines()
        }
        for axis, at in places
    }


def test_all_curves_of_two_runs_are_where_they_belong(tmp_path):
    runs = {
        'with SHD': curves.read_run(distilled(tmp_path / 'a')),
        'plain': curves.read_run(
            write(tmp_path / 'b', '20260101_000000', logged(15, 1), scored(1, 60.0))
        ),
    }
    # The plain run logs its only loss as 'loss', and was not watched.
    assert runs['plain'].losses == {('cls', 'weighted'): {15: 0}}
    assert lines(curves.draw(runs)) == {
        ('accuracy', 'top-1 (%)'): {'with SHD': {1: 70, 2: 80}, 'plain': {1: 60}},
        ('cls', 'raw value'): {'with SHD': {10: 2, 20: 1}},
        ('shd', 'raw value'): {'with SHD': {10: 3, 20: 2}},
        ('cls', 'weighted value'): {'with SHD': {10: 2, 20: 1}, 'plain': {15: 0}},
        ('shd', 'weighted value'): {'with SHD': {10: 0.3, 20: 0}},
        ('cls', 'gradient norm'): {'with SHD': {10: 1, 20: 0.5}},
        ('shd', 'gradient norm'): {'with SHD': {10: 0.01, 20: 0}},
    }


def test_scales_are_logarithmic_where_values_are_far_apart(tmp_path):
    figure = curves.draw({'a': curves.read_run(distilled(tmp_path))})
    scales = {axis.get_ylabel(): axis.get_yscale() for axis in figure.axes if axis.get_ylabel()}
    assert scales == {
        'top-1 (%)': 'linear',
        'raw value': 'linear',
        'weighted value': 'linear',  # 2 / 0.3
        'gradient norm': 'log',  # 1 / 0.01
    }
    limits = [axis.get_ylim() for axis in figure.axes[-2:]]
    assert limits[0] == limits[1], 'gradients are compared between losses'
    assert not figure.legends, 'one run needs no legend'


def test_a_run_without_the_monitor_shows_what_was_logged(tmp_path):
    run = curves.read_run(
        write(tmp_path, '20260101_000000', logged(5, 1, loss_cls=2.0, loss_shd=1.0))
    )
    assert run.losses == {('cls', 'weighted'): {5: 2.0}, ('shd', 'weighted'): {5: 1.0}}
    titles = [axis.get_title() for axis in curves.draw({'a': run}).axes]
    assert titles == ['cls', 'shd']


def test_resumed_runs_are_one(tmp_path):
    write(
        tmp_path,
        '20260101_000000',
        logged(10, 1, loss_cls=1.0),
        scored(1, 50.0),
        logged(20, 2, loss_cls=2.0),
        logged(30, 2, loss_cls=3.0),  # killed before the end of epoch 2
    )
    write(
        tmp_path,
        '20260102_000000',
        logged(20, 2, loss_cls=20.0),
        logged(28, 2, loss_cls=28.0),
        scored(2, 60.0),
    )
    run = curves.read_run(str(tmp_path))
    assert run.losses == {('cls', 'weighted'): {10: 1, 20: 20, 28: 28}}
    assert run.accuracy == {1: 50, 2: 60}


def test_a_run_from_the_start_replaces_earlier_ones(tmp_path):
    write(tmp_path, '20260101_000000', logged(5, 1, loss_cls=1.0), scored(9, 50.0))
    write(tmp_path, '20260102_000000', logged(10, 1, loss_shd=4.0), scored(1, 40.0))
    run = curves.read_run(str(tmp_path))
    assert run == ({1: 40}, {('shd', 'weighted'): {10: 4}}, 'epoch')


def test_a_run_that_was_only_tested_changes_nothing(tmp_path):
    distilled(tmp_path)
    before = curves.read_run(str(tmp_path))
    (tmp_path / '20260103_000000/vis_data').mkdir(parents=True)
    (tmp_path / '20260103_000000/vis_data/scalars.json').touch()
    assert curves.read_run(str(tmp_path)) == before


def test_a_line_cut_short_is_left_out(tmp_path):
    distilled(tmp_path)
    with open(tmp_path / '20260101_000000/vis_data/scalars.json', 'a') as file:
        file.write('{"accuracy/top1": 9')
    assert curves.read_run(str(tmp_path)).accuracy == {1: 70, 2: 80}


def start(monkeypatch, *arguments):
    run_tool('analysis/training_curves', monkeypatch, *arguments)


@pytest.mark.parametrize('suffix', ['.svg', '.png', '.pdf'])
def test_pictures_of_all_kinds_are_written(suffix, tmp_path, monkeypatch):
    work = distilled(tmp_path / 'work')
    out = tmp_path / f'curves{suffix}'
    start(monkeypatch, f'first={work}', f'second={work}', '--out', out)
    head = {'.svg': b'<?xml', '.png': b'\x89PNG', '.pdf': b'%PDF'}[suffix]
    assert out.read_bytes().startswith(head)


def test_mistakes_are_named(tmp_path, monkeypatch):
    work = distilled(tmp_path / 'a=b')  # a folder may have '=' in its name
    empty, silent = tmp_path / 'empty', tmp_path / 'silent'
    empty.mkdir()
    write(silent, '20260101_000000', dict(lr=1.0, step=1))
    out = ('--out', tmp_path / 'x.svg')
    for arguments, message in (
        (
            [work, '--out', 'curves.jpg'],
            r"--out 'curves\.jpg' must end in one of \.png, \.svg, \.pdf",
        ),
        ([tmp_path / 'gone', *out], r"work dir '.*gone' does not exist"),
        ([f'x={tmp_path}/gone', *out], r"work dir '.*gone' does not exist"),
        ([empty, *out], r'empty.* has no \*/vis_data/scalars\.json: was it trained with Local'),
        ([silent, *out], r'silent.* has nothing to draw: no loss and no accuracy/top1'),
        ([work, work, *out], r"two runs are called 'a=b': give them names with NAME=WORK_DIR"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            start(monkeypatch, *arguments)
        assert '\n' not in str(caught.value)
    assert not (tmp_path / 'x.svg').exists()
