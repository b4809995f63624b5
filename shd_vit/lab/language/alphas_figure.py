"""The distribution of merging weights of a deep teacher: one panel, layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shd_vit.lab.alphas import Alphas
from shd_vit.lab.figures import COLORS, pyplot

# Drawn from here to there; what lies beyond is in the table.
SHOWN = (-0.25, 1.25)


def draw_by_layer(alphas: Alphas, title: str, out: Path) -> None:
    """Violins of each layer: of pairs of heads, and beside them of what later passes join.

    Args:
        alphas: From :func:`shd_vit.lab.alphas.gather_alphas`.
        title: Of the figure.
        out: Its ending says how.
    """
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(max(5, 1.5 + 0.32 * len(alphas)), 3.2))
    axis.axhspan(0, 1, color='0.94', zorder=0)
    axis.axhline(0.5, color='0.8', linewidth=0.8, zorder=0.5)
    passes = {'pairs of heads': _first_pass(alphas), 'later passes': _later_passes(alphas)}
    drawn = {name: values for name, values in passes.items() if values}
    for number, (name, by_layer) in enumerate(drawn.items()):
        shift = 0 if len(drawn) == 1 else 0.4 * number - 0.2
        _violins(axis, by_layer, shift, 0.75 / len(drawn), COLORS[number])
        axis.plot([], [], 's', color=COLORS[number], label=name)
    axis.set(xlabel='layer', ylabel=r'$\alpha$, weight of the first head', ylim=SHOWN)
    axis.set_xticks(list(alphas), map(str, alphas), fontsize=8)
    axis.set_xlim(min(alphas) - 0.7, max(alphas) + 0.7)
    axis.spines[['top', 'right']].set_visible(False)
    axis.legend(loc='lower right', ncols=2, frameon=False)
    axis.set_title(title, loc='left', fontsize=9)
    figure.tight_layout()
    figure.savefig(out)
    plt.close(figure)


def _first_pass(alphas: Alphas) -> dict[int, np.ndarray]:
    return _joined(alphas, lambda pair: '(' not in pair)


def _later_passes(alphas: Alphas) -> dict[int, np.ndarray]:
    return _joined(alphas, lambda pair: '(' in pair)


def _joined(alphas: Alphas, wanted) -> dict[int, np.ndarray]:
    found = {
        layer: [values for pair, values in pairs.items() if wanted(pair)]
        for layer, pairs in alphas.items()
    }
    return {layer: np.concatenate(values) for layer, values in found.items() if values}


def _violins(axis, by_layer: dict[int, np.ndarray], shift: float, width: float, color: str):
    places = [layer + shift for layer in by_layer]
    inside = [v[(v >= SHOWN[0]) & (v <= SHOWN[1])] for v in by_layer.values()]
    parts = axis.violinplot(inside, places, widths=width, showextrema=False)
    for body in parts['bodies']:
        body.set(facecolor=color, edgecolor='none', alpha=0.75)
    for place, values in zip(places, by_layer.values(), strict=True):
        low, median, high = np.percentile(values, (5, 50, 95))
        axis.plot([place, place], [low, high], color='0.2', linewidth=0.8)
        axis.plot(place, median, 'o', color='white', markeredgecolor='0.2', markersize=2.5)
