"""The distribution of merging weights as a table, and as a figure with a panel a layer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from shd_vit.lab.alphas import Alphas, outside
from shd_vit.lab.figures import COLORS, pyplot
from shd_vit.lab.report import Table

# Panels side by side, for up to so many layers.
COLUMNS = ((2, 4), (3, 12), (4, 32), (6, math.inf))
# Panels show this share of all alphas; the tails beyond are in the table.
SHOWN = 0.995


def table_of(results: dict, samples: str) -> Table:
    """A row a layer and pair; ``samples`` says of how many of what."""
    numbers = ('mean', 'std', 'p5', 'median', 'p95')
    rows = [['layer', 'pair', 'mean', 'std', '5 %', 'median', '95 %', 'outside']]
    for row in results['pairs']:
        cells = [f'{row[name]:.3f}' for name in numbers]
        rows.append([str(row['layer']), row['pair'], *cells, f'{row["outside"]:.2%}'])
    rows.append(['all', *[''] * (1 + len(numbers)), f'{results["outside"]:.2%}'])
    return f'alpha of {samples}; outside: of [0, 1], before clamping', rows


def draw(alphas: Alphas, results: dict, samples: str, out: Path) -> None:
    """A panel a layer, a violin a pair; ``samples`` says of how many of what."""
    plt = pyplot()
    columns = min(len(alphas), next(c for c, most in COLUMNS if len(alphas) <= most))
    lines = math.ceil(len(alphas) / columns)
    most = max(map(len, alphas.values()))
    width = 3.4 * columns + 0.06 * columns * max(len(row['pair']) for row in results['pairs'])
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(max(width, 6), lines * (0.8 + (0.42 if most <= 6 else 0.3) * most) + 0.9),
        sharex=True,
        squeeze=False,
        layout='constrained',
    )
    limits = _limits(alphas)
    for axis in axes.flat[len(alphas) :]:
        axis.remove()
    for number, (axis, (layer, pairs)) in enumerate(zip(axes.flat, alphas.items(), strict=False)):
        _panel(axis, pairs, limits)
        share = outside(np.concatenate(list(pairs.values())))
        axis.set_title(f'layer {layer}', loc='left', fontweight='bold', fontsize=10)
        axis.set_title(f'{share:.1%} outside', loc='right', fontsize=9)
        if number + columns >= len(alphas):
            axis.set_xlabel(r'$\alpha$, weight of the first head')
            axis.tick_params(labelbottom=True)
    figure.suptitle(
        rf'$\alpha$ before clamping, {samples}, '
        f'{results["heads"]} heads left; {results["outside"]:.1%} of all outside [0, 1]'
    )
    figure.savefig(out)
    plt.close(figure)


def _limits(alphas: Alphas) -> tuple[float, float]:
    tail = 50 * (1 - SHOWN)
    everything = [v for pairs in alphas.values() for v in pairs.values()]
    low = min(np.percentile(v, tail) for v in everything)
    high = max(np.percentile(v, 100 - tail) for v in everything)
    return min(low, 0) - 0.1, max(high, 1) + 0.1


def _panel(axis, pairs: dict[str, np.ndarray], limits: tuple[float, float]) -> None:
    axis.axvspan(0, 1, color='0.93', zorder=0)
    axis.axvline(0.5, color='0.8', linewidth=0.8, zorder=0.5)
    places = range(len(pairs))
    inside = [v[(v >= limits[0]) & (v <= limits[1])] for v in pairs.values()]
    style = dict(orientation='horizontal', widths=0.85, showextrema=False)
    parts = axis.violinplot(inside, places, **style)
    for i, (body, values) in enumerate(zip(parts['bodies'], pairs.values(), strict=True)):
        body.set(facecolor=COLORS[i % len(COLORS)], edgecolor='none', alpha=0.75)
        low, median, high = np.percentile(values, (5, 50, 95))
        axis.plot([low, high], [i, i], color='0.2', linewidth=1)
        axis.plot(median, i, 'o', color='white', markeredgecolor='0.2', markersize=4)
    axis.set_yticks(places, pairs)
    axis.set(xlim=limits, ylim=(len(pairs) - 0.4, -0.6))
    axis.spines[['top', 'right']].set_visible(False)
