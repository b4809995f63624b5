"""The figure of a layer's attention maps: teacher above, squeezed below, students below that."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from shd_vit.lab.figures import pyplot
from shd_vit.lab.maps import Alpha, LayerMaps
from shd_vit.lab.query import Query

# Inches.
LEFT, RIGHT, ABOVE, BELOW, MARGIN, TITLE = 1.25, 0.75, 0.22, 0.2, 0.12, 0.35
GAP, LEGEND, HEADER = 0.06, 4.2, 1.2


class Cell(NamedTuple):
    """One picture of a row, centred above the given teacher heads (from 1)."""

    picture: Tensor
    heads: tuple[int, ...]
    above: str
    below: str = ''


class Row(NamedTuple):
    """Pictures on one colour scale, from 0 to ``most``."""

    title: str
    cells: list[Cell]
    most: float
    kind: str  # 'heat' over the image, or 'matrix'


def rows_of(maps: LayerMaps, query: Query | None, prefix: Sequence[str], matrix: bool) -> list[Row]:
    """What is drawn below the image.

    Args:
        maps: A layer's.
        query: Whose attention is laid over the image; None for no such rows.
        prefix: Names of the tokens before the patches.
        matrix: Whether N x N maps are drawn too.
    """
    rows = []
    if query is not None:
        rows += _rows(maps, 'heat', lambda heads: query.heat(heads, prefix))
    if matrix:
        rows += _rows(maps, 'matrix', lambda heads: heads)
    return rows


def _rows(maps: LayerMaps, kind: str, picture: Callable[[Tensor], Tensor]) -> list[Row]:
    teacher, squeezed = picture(maps.teacher), picture(maps.squeezed)
    students = {name: picture(student) for name, student in maps.students.items()}
    # One scale for what is to be compared.
    most = max(p.max().item() for p in (squeezed, *students.values()))
    names = [head.name for head in maps.merged]
    groups = [head.heads for head in maps.merged]
    alphas = [rf'$\alpha$ = {alpha_text(a)}' if a else '' for a in maps.alphas]
    rows = [
        Row(
            f'teacher\n{len(teacher)} heads',
            [Cell(p, (i,), f'head {i}') for i, p in enumerate(teacher, 1)],
            teacher.max().item(),
            kind,
        ),
        Row(
            f'teacher\nsqueezed to {len(squeezed)}',
            [Cell(*cell) for cell in zip(squeezed, groups, names, alphas, strict=True)],
            most,
            kind,
        ),
    ]
    for name, student in students.items():
        below = [f'KL {kl:.3f}' for kl in maps.kl[name].tolist()]
        above = [f'head {i}' for i in range(1, len(student) + 1)]
        cells = [Cell(*cell) for cell in zip(student, groups, above, below, strict=True)]
        rows.append(Row(f'student\n{name}', cells, most, kind))
    return rows


def alpha_text(alphas: Iterable[Alpha]) -> str:
    """The weights that were used; where clamping changed one, what it was before."""
    texts = (f'{used:.2f}' + (f' (raw {raw:.2f})' if raw != used else '') for used, raw in alphas)
    return ', '.join(texts)


class _Canvas:
    """A figure that is laid out in inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = pyplot().figure(figsize=(width, height))
        self.width, self.height = width, height

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        bottom = 1 - (top + height) / self.height
        box = left / self.width, bottom, width / self.width, height / self.height
        return self.figure.add_axes(box)

    def text(self, left: float, top: float, text: str, **style: Any) -> None:
        style = {'fontsize': 9, 'va': 'center', **style}
        self.figure.text(left / self.width, 1 - top / self.height, text, **style)


def draw(rows: list[Row], image: Tensor, maps: LayerMaps, query: Query | None, out: Path) -> None:
    """Write the figure of a layer.

    Args:
        rows: From :func:`rows_of`.
        image: (h, w, 1 or 3) in 0..1.
        maps: The layer's.
        query: As in :func:`rows_of`.
        out: Its ending says how.
    """
    heads = len(maps.teacher)
    size = min(1.5, max(0.75, 9 / heads))
    header = max(size, HEADER)
    top = MARGIN + TITLE + header
    canvas = _Canvas(
        LEFT + max(heads * (size + GAP), size + LEGEND) + RIGHT,
        top + len(rows) * (ABOVE + size + BELOW) + MARGIN,
    )
    student, teacher = maps.layers
    title = f'Student layer {student}, teacher layer {teacher}'
    canvas.text(LEFT, MARGIN, title, va='top', fontsize=12, fontweight='bold')
    axis = canvas.axes(LEFT, top - (header + size) / 2, size, size)
    axis.imshow(image.squeeze(-1), cmap='gray', vmin=0, vmax=1, extent=_extent(image))
    _bare(axis)
    if query is not None:
        _mark(axis, query, rows[0].cells[0].picture, image)
    canvas.text(LEFT + size + 0.2, top - header / 2, _legend(maps, query, rows))
    for row in rows:
        _draw_row(canvas, row, top + ABOVE, size, heads, image, query)
        top += ABOVE + size + BELOW
    canvas.figure.savefig(out)
    pyplot().close(canvas.figure)


def _draw_row(
    canvas: _Canvas,
    row: Row,
    top: float,
    size: float,
    heads: int,
    image: Tensor,
    query: Query | None,
) -> None:
    canvas.text(MARGIN, top + size / 2, _wrapped(row.title), fontweight='bold')
    for cell in row.cells:
        column = sum(cell.heads) / len(cell.heads) - 1
        left = LEFT + column * (size + GAP)
        axis = canvas.axes(left, top, size, size)
        if row.kind == 'heat':
            drawn = _heat(axis, cell, row, image)
            _mark(axis, query, cell.picture, image)
        else:
            drawn = _matrix(axis, cell, row)
        axis.set_title(cell.above, fontsize=8, pad=3)
        style = dict(va='top', ha='center', fontsize=8)
        canvas.text(left + size / 2, top + size + 0.03, cell.below, **style)
    bar = canvas.axes(LEFT + heads * (size + GAP) + 0.05, top, 0.09, size)
    canvas.figure.colorbar(drawn, cax=bar)
    bar.tick_params(labelsize=7, length=2, pad=2)
    bar.locator_params(nbins=4)


def _legend(maps: LayerMaps, query: Query | None, rows: list[Row]) -> str:
    kinds = {row.kind for row in rows}
    lines = []
    if 'heat' in kinds:
        lines.append(f'Over the image: what {query} attends to.')
    if 'matrix' in kinds:
        tokens = maps.teacher.shape[-1]
        lines.append(f'Matrices: {tokens} queries (rows) x {tokens} keys, square-root scale.')
    lines.append('Scales at the right; squeezed and students share one.')
    if any(maps.alphas):
        lines.append(r'$\alpha$: weight of the first head of each pair, pass by pass.')
    if maps.students:
        lines.append('KL: of squeezed map to student map, mean over queries.')
    lines.append(f'Attention temperature {maps.temperature:g}.')
    return '\n'.join(lines)


def _wrapped(title: str) -> str:
    """Names of students may be longer than the margin is wide."""
    return '\n'.join(part for line in title.split('\n') for part in textwrap.wrap(line, 15))


def _heat(axis: Any, cell: Cell, row: Row, image: Tensor) -> Any:
    axis.imshow(image.mean(-1), cmap='gray', vmin=0, vmax=1, extent=_extent(image))
    drawn = axis.imshow(
        cell.picture,
        cmap='inferno',
        vmin=0,
        vmax=row.most,
        alpha=0.75,
        extent=_extent(image),
    )
    _bare(axis)
    return drawn


def _matrix(axis: Any, cell: Cell, row: Row) -> Any:
    from matplotlib.colors import PowerNorm

    drawn = axis.imshow(
        cell.picture, cmap='inferno', norm=PowerNorm(0.5, 0, row.most), interpolation='none'
    )
    _bare(axis)
    return drawn


def _mark(axis: Any, query: Query | None, picture: Tensor, image: Tensor) -> None:
    """A frame around the patch that asks."""
    if query is None or query.kind != 'patch':
        return
    side = picture.shape[-1]
    h, w = image.shape[0] / side, image.shape[1] / side
    corner = (query.column - 1) * w, (query.row - 1) * h
    axis.add_patch(pyplot().Rectangle(corner, w, h, fill=False, edgecolor='#56B4E9', linewidth=1.5))


def _extent(image: Tensor) -> tuple[float, float, float, float]:
    return 0, image.shape[1], image.shape[0], 0


def _bare(axis: Any) -> None:
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
