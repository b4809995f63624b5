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
from shd_vit.lab.report import Table

# Inches: of the left margin with titles, of what stands above and below a picture, of the header.
TITLE, TEXTS, HEADER = 1.2, 0.55, 1.6


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


def table_of(maps: LayerMaps) -> Table:
    """A row a squeezed head: its weights, and how far students are from it."""
    rows = [['squeezed head', 'alpha', *(f'KL to {name}' for name in maps.students)]]
    for i, head in enumerate(maps.merged):
        rows.append(
            [head.name, alpha_text(maps.alphas[i]), *(f'{kl[i]:.4f}' for kl in maps.kl.values())]
        )
    return f'Student layer {maps.layers[0]}, teacher layer {maps.layers[1]}', rows


def draw(rows: list[Row], image: Tensor, maps: LayerMaps, query: Query | None, out: Path) -> None:
    """Write the figure of a layer: a row each, and a column for each of the teacher's heads.

    Args:
        rows: From :func:`rows_of`.
        image: (h, w, 1 or 3) in 0..1.
        maps: The layer's.
        query: As in :func:`rows_of`.
        out: Its ending says how.
    """
    heads = len(maps.teacher)
    size = min(1.5, max(0.75, 9 / heads))
    figure = pyplot().figure(
        figsize=(TITLE + max(heads * 1.25 * size, 4.7) + 0.8, HEADER + len(rows) * (size + TEXTS)),
        layout='constrained',
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0.02)
    student, teacher = maps.layers
    title = f'Student layer {student}, teacher layer {teacher}'
    figure.suptitle(title, x=0.01, ha='left', fontsize=12, fontweight='bold')
    grid = figure.add_gridspec(
        len(rows) + 1,
        heads + 2,
        width_ratios=[TITLE / size / 1.25, *[1] * heads, 0.1],
        height_ratios=[HEADER - 0.3, *[size + TEXTS] * len(rows)],
    )
    axis = _bare(figure.add_subplot(grid[0, 0]))
    axis.imshow(image.squeeze(-1), cmap='gray', vmin=0, vmax=1, extent=_extent(image))
    if query is not None:
        _mark(axis, query, rows[0].cells[0].picture, image)
    _text(figure.add_subplot(grid[0, 1:]), _legend(maps, query, rows))
    for i, row in enumerate(rows, 1):
        _text(figure.add_subplot(grid[i, 0]), _wrapped(row.title), fontweight='bold')
        for cell in row.cells:  # columns of heads are counted from 1, as heads are
            axis = _bare(figure.add_subplot(grid[i, cell.heads[0] : cell.heads[-1] + 1]))
            axis.set_title(cell.above, fontsize=8, pad=3)
            axis.set_xlabel(cell.below, fontsize=8, labelpad=2)
            if row.kind == 'heat':
                drawn = _heat(axis, cell, row, image)
                _mark(axis, query, cell.picture, image)
            else:
                drawn = _matrix(axis, cell, row)
        bar = figure.add_subplot(grid[i, -1])
        figure.colorbar(drawn, cax=bar).ax.tick_params(labelsize=7, length=2, pad=2)
        bar.locator_params(nbins=4)
    figure.savefig(out)
    pyplot().close(figure)


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
    style = dict(cmap='inferno', vmin=0, vmax=row.most, alpha=0.75)
    return axis.imshow(cell.picture, extent=_extent(image), **style)


def _matrix(axis: Any, cell: Cell, row: Row) -> Any:
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(0.5, 0, row.most)
    return axis.imshow(cell.picture, cmap='inferno', norm=norm, interpolation='none')


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


def _bare(axis: Any) -> Any:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    return axis


def _text(axis: Any, text: str, **style: Any) -> None:
    axis.set_axis_off()
    style = dict(va='center', fontsize=9, transform=axis.transAxes, **style)
    axis.text(0, 0.5, text, **style).set_in_layout(False)
