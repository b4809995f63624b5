"""A picture of a study's tables: every cell, means, and how sure they are."""

from __future__ import annotations

from pathlib import Path

from shd_vit.lab.figures import pyplot


def draw(values: dict, out: Path) -> None:
    """Draw what results() gives: a panel a table, a line a row.

    A dot is a cell; on the right are differences to the table's row of reference, seed by seed,
    with their mean and its 95 % interval.
    """
    plt = pyplot()
    tables, rows = values['tables'], values['rows']
    heights = [len(table['rows']) + 1.6 for table in tables]
    figure, axes = plt.subplots(
        len(tables),
        2,
        figsize=(10, 0.3 * sum(heights) + 0.4),
        height_ratios=heights,
        squeeze=False,
        layout='constrained',
    )
    for table, (left, right) in zip(tables, axes, strict=True):
        _panel(table, rows, left, right)
        left.set_title(table['title'], loc='left', fontweight='bold', fontsize=9)
        right.set_title(f'minus {table["against"]}', loc='left', fontsize=9)
    axes[-1, 0].set_xlabel(values['metric'])
    axes[-1, 1].set_xlabel('difference, seed by seed; mean and 95 % interval')
    figure.savefig(out)
    plt.close(figure)


def _panel(table: dict, rows: dict, left, right) -> None:
    names, against = table['rows'], rows[table['against']]['values']
    for place, name in enumerate(names):
        found = rows[name]['values']
        left.plot(list(found.values()), [place] * len(found), 'o', color='#56B4E9', markersize=4)
        if found:
            left.plot(rows[name]['mean'], place, '|', color='black', markersize=11)
        pairs = [value - against[seed] for seed, value in found.items() if seed in against]
        if name != table['against'] and pairs:
            mean, low, high = table['differences'][name].values()
            right.plot(pairs, [place] * len(pairs), 'o', color='#E69F00', markersize=4)
            right.plot(mean, place, '|', color='black', markersize=11)
            if low is not None:
                right.plot([low, high], [place, place], color='black', linewidth=1, zorder=0.5)
    right.axvline(0, color='0.7', linewidth=0.8, zorder=0)
    left.set_yticks(range(len(names)), names)
    right.set_yticks(range(len(names)), [])
    for axis in (left, right):
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.grid(axis='x', alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
