"""The figure of a text's attention maps: a layer a row, and beside each other every head of the
teacher, what they are squeezed to, and the heads of students (the paper's Fig. 1)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from shd_vit.lab.figures import pyplot
from shd_vit.lab.maps import LayerMaps

SIDE, GAP, MARGIN = 0.72, 0.35, 0.75  # inches: of a map, between groups of columns, on the left
HEADER, FOOTER = 0.45, 0.6


def draw(layers: Sequence[LayerMaps], tokens: Sequence[str], out: Path) -> None:
    """Write the figure.

    Args:
        layers: Maps of one text, a layer each, of equal numbers of heads.
        tokens: The text's, as they are shown.
        out: Its ending says how.
    """
    groups = _groups(layers[0])
    widths = [SIDE * len(maps) for maps in groups.values()]
    width = MARGIN + sum(widths) + GAP * (len(groups) - 1) + 0.75
    height = HEADER + SIDE * len(layers) + FOOTER
    plt = pyplot()
    figure = plt.figure(figsize=(width, height))
    left = MARGIN
    for title, own in zip(groups, widths, strict=True):
        figure.text((left + own / 2) / width, 1 - 0.06 / height, title, ha='center', va='top',
                    fontsize=9, fontweight='bold')  # fmt: skip
        for row, maps in enumerate(layers):
            for column, picture in enumerate(_groups(maps)[title]):
                x, y = left + SIDE * column, FOOTER + SIDE * (len(layers) - 1 - row)
                box = (x / width, y / height, 0.94 * SIDE / width, 0.94 * SIDE / height)
                axis = figure.add_axes(box)
                drawn = _matrix(axis, picture)
                if row == 0:
                    axis.set_title(_name(title, column, layers[0]), fontsize=6, pad=2)
        left += own + GAP
    for row, maps in enumerate(layers):
        y = FOOTER + SIDE * (len(layers) - 0.5 - row)
        figure.text(0.08 / width, y / height, _layer(maps), fontsize=8, va='center')
    bar = figure.add_axes(((width - 0.6) / width, FOOTER / height, 0.1 / width,
                           SIDE * len(layers) / height))  # fmt: skip
    figure.colorbar(drawn, cax=bar, ticks=[0, 0.01, 0.1, 0.25, 0.5, 1]).ax.tick_params(labelsize=6)
    text = textwrap.shorten(''.join(tokens).replace('\n', ' '), 320, placeholder=' ...')
    about = (
        f'{len(tokens)} queries (rows) x keys, square-root scale from 0 to 1; '
        f'attention temperature {layers[0].temperature:g}. Text: “{text}”'
    )
    wrapped = textwrap.fill(about.replace('$', r'\$'), int(width * 17))
    figure.text(0.08 / width, 0.08 / height, wrapped, fontsize=7, va='bottom')
    figure.savefig(out)
    plt.close(figure)


def _groups(maps: LayerMaps) -> dict[str, Tensor]:
    """Maps (H, N, N) by the title of their columns."""
    return {
        f'teacher, {len(maps.teacher)} heads': maps.teacher,
        f'squeezed to {len(maps.squeezed)}': maps.squeezed,
        **{f'student {name}': student for name, student in maps.students.items()},
    }


def _name(title: str, column: int, maps: LayerMaps) -> str:
    if not title.startswith('squeezed'):
        return str(column + 1)
    heads = maps.merged[column].heads
    return f'{heads[0]}-{heads[-1]}' if len(heads) > 1 else str(heads[0])


def _layer(maps: LayerMaps) -> str:
    student, teacher = maps.layers
    return f'layer {teacher}' if not maps.students else f'layer {teacher}\n→ {student}'


def _matrix(axis: Any, picture: Tensor) -> Any:
    from matplotlib.colors import PowerNorm

    seen = np.where(np.tri(len(picture), dtype=bool), picture.numpy(), np.nan)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=True, linewidth=0.4, color='0.7')
    return axis.imshow(seen, cmap='magma_r', norm=PowerNorm(0.5, 0, 1), interpolation='none')
