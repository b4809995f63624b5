"""Accuracy and losses of training runs, from what their work dirs say in scalars.json."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shd_vit.errors import ConfigError
from shd_vit.lab.figures import COLORS, pyplot
from shd_vit.lab.records import SCALARS, is_number, read_records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACCURACY = 'accuracy/top1'
STYLES = ('-', '--', '-.', ':')
ROWS = dict(raw='raw value', weighted='weighted value', gradient='gradient norm')
Curve = dict[int, float]


class Run(NamedTuple):
    """The curves of one work dir.

    Attributes:
        accuracy: Top-1 in percent, by ``unit``.
        losses: (name of the loss, key of ROWS) to values by iteration.
        unit: 'epoch', or 'iteration' where training counted no epochs.
    """

    accuracy: Curve
    losses: dict[tuple[str, str], Curve]
    unit: str


def read_run(folder: str) -> Run:
    """The curves of a work dir.

    Raises:
        ConfigError: If there is no such folder, or nothing to draw in it.
    """
    if not os.path.isdir(folder):
        raise ConfigError(
            f'work dir {folder!r} does not exist: expected a folder by tools/train.py'
        )
    files = sorted(Path(folder).glob(SCALARS))  # folders are times
    if not files:
        raise ConfigError(
            f'{folder!r} has no {SCALARS}: was it trained with LocalVisBackend among '
            'visualizer.vis_backends?'
        )
    accuracy: Curve = {}
    losses: dict[tuple[str, str], Curve] = {}
    unit = 'iteration'
    for file in files:
        records = read_records(folder, str(file.relative_to(folder)))
        epochs = [record['epoch'] for record in records if 'epoch' in record]
        curves = _loss_curves(records)
        if epochs and epochs[0] == 1:
            accuracy, losses = {}, {}  # this run began anew, and did not resume an earlier one
        unit = 'epoch' if epochs else unit
        _join(accuracy, _curve(records, ACCURACY))
        for key, curve in curves.items():
            _join(losses.setdefault(key, {}), curve)
    if not accuracy and not losses:
        raise ConfigError(f'{folder!r} has nothing to draw: no loss and no {ACCURACY} was logged')
    return Run(accuracy, losses, unit)


def draw(runs: dict[str, Run]) -> Figure:
    """Accuracy, and below it a column for each loss with its curves."""
    found = [key for run in runs.values() for key in run.losses]
    names = list(dict.fromkeys(name for name, _ in found))
    rows = [what for what in ROWS if what in {w for _, w in found}]
    top = int(any(run.accuracy for run in runs.values()))
    columns = max(len(names), 1)
    figure = pyplot().figure(
        figsize=(max(2.3 * columns + 0.6, 6), 1.8 * len(rows) + 2.4 * top + 0.5),
        layout='constrained',
    )
    grid = figure.add_gridspec(
        top + len(rows), columns, height_ratios=[1.2] * top + [1.0] * len(rows)
    )
    if top:
        axis = figure.add_subplot(grid[0, :])
        _plot(axis, [run.accuracy for run in runs.values()], list(runs), marker='o')
        axis.set(title='accuracy', ylabel='top-1 (%)')
        axis.set_xlabel(' / '.join(sorted({run.unit for run in runs.values()})))
    for i, what in enumerate(rows):
        axes: list[Axes] = []
        for j, name in enumerate(names):
            # Weighted values and gradients are there to be compared between losses.
            share = axes[0] if axes and what != 'raw' else None
            axes.append(figure.add_subplot(grid[top + i, j], sharey=share))
            curves = [run.losses.get((name, what), {}) for run in runs.values()]
            _plot(axes[-1], curves, list(runs))
            axes[-1].tick_params(labelleft=share is None)
        axes[0].set_ylabel(ROWS[what])
        for axis, name in zip(axes, names, strict=True):
            axis.set(title=name if i == 0 else '')
            axis.set_xlabel('iteration' if i == len(rows) - 1 else '')
        for group in [[axis] for axis in axes] if what == 'raw' else [axes]:
            _log_if_it_helps(group)
    if len(runs) > 1:
        # Of every colour once, whichever panel a run is in.
        lines = {line.get_label(): line for axis in figure.axes for line in axis.get_lines()}
        handles = [lines[name] for name in runs if name in lines]
        figure.legend(handles=handles, loc='outside upper center', ncols=4, frameon=False)
    return figure


def _plot(axis: Axes, curves: list[Curve], names: list[str], marker: str | None = None) -> None:
    """One line for each run that has the curve, in the colour of the run."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    for i, (curve, name) in enumerate(zip(curves, names, strict=True)):
        if curve:
            axis.plot(
                list(curve),
                list(curve.values()),
                color=COLORS[i % len(COLORS)],
                linestyle=STYLES[i // len(COLORS) % len(STYLES)],
                marker=marker or ('o' if len(curve) == 1 else None),
                markersize=3,
                linewidth=1.4,
                label=name,
            )
    axis.xaxis.set_major_locator(MaxNLocator(4 if marker is None else 10, integer=True))
    axis.xaxis.set_major_formatter(EngFormatter(sep=''))
    axis.grid(alpha=0.3)


def _log_if_it_helps(axes: list[Any]) -> None:
    """A logarithmic y axis where values are apart by more than a factor of 20."""
    values = [y for axis in axes for line in axis.get_lines() for y in line.get_ydata()]
    positive = [y for y in values if 0 < y < math.inf]
    if positive and min(values) >= 0 and max(positive) > 20 * min(positive):
        for axis in axes:
            axis.set_yscale('log')


def _curve(records: list[dict], key: str) -> Curve:
    """Of what is a number, by step; a diverged loss has none."""
    return {
        r['step']: r[key] for r in records if is_number(r.get(key)) and is_number(r.get('step'))
    }


def _loss_curves(records: list[dict]) -> dict[tuple[str, str], Curve]:
    """From the monitor; the weighted values from the training log where it did not watch."""
    keys = dict.fromkeys(key for record in records for key in record)
    logged = [key for key in keys if key.startswith('loss_')] or ['loss']
    curves = {}
    for key in logged:
        name = 'cls' if key == 'loss' else key.removeprefix('loss_')
        curves[name, 'weighted'] = _curve(records, key)
    for key in keys:
        prefix, _, rest = key.partition('/')
        name, _, what = rest.rpartition('/')
        if prefix == 'monitor' and what in ROWS:
            curves[name, what] = _curve(records, key)
    return {key: curve for key, curve in curves.items() if curve}


def _join(curve: Curve, more: Curve) -> None:
    """Go on with a resumed run's values, which replace those of the same steps and later."""
    for step in [step for step in curve if more and step >= min(more)]:
        del curve[step]
    curve.update(more)
