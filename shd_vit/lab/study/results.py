"""What a study has found so far: a dict for JSON, and tables."""

from __future__ import annotations

from statistics import fmean, median, stdev

from shd_vit.lab.study.cell import Cell
from shd_vit.lab.study.plan import Study
from shd_vit.lab.study.statistics import paired_difference

MISSING = 'n/a'


def results(study: Study, cells: list[Cell]) -> dict[str, object]:
    """Cells, rows and tables. What a cell of another config left does not count."""
    done = [cell.result() for cell in cells if cell.state == 'finished']
    values = {
        name: {r['seed']: r['metrics'][study.metric] for r in done if r['row'] == name}
        for name in study.rows
    }
    rows = {name: _row(values[name], [r for r in done if r['row'] == name]) for name in study.rows}
    tables = []
    for table in study.tables:
        differences = {
            name: paired_difference(values[name], values[table.against])
            for name in table.rows
            if name != table.against
        }
        tables.append(
            dict(
                title=table.title,
                against=table.against,
                rows=list(table.rows),
                differences={n: d._asdict() if d else None for n, d in differences.items()},
            )
        )
    return dict(metric=study.metric, cells=done, rows=rows, tables=tables)


def _row(values: dict[int, float], done: list[dict]) -> dict[str, object]:
    """Mean and sample standard deviation; None where there are too few values."""
    numbers = list(values.values())
    steps = [r['step_seconds'] for r in done if r['step_seconds'] is not None]
    return dict(
        mean=fmean(numbers) if numbers else None,
        deviation=stdev(numbers) if len(numbers) > 1 else None,
        values={str(seed): value for seed, value in values.items()},
        step_seconds=median(steps) if steps else None,
    )


def tables(metric: str, values: dict) -> list[tuple[str, list[list[str]]]]:
    """Title and rows of each table, headings first, of what results() gives."""
    return [(table['title'], _table(metric, table, values['rows'])) for table in values['tables']]


def _table(metric: str, table: dict, rows: dict[str, dict]) -> list[list[str]]:
    against = f'minus {table["against"]}'
    lines = [['', metric, 'deviation', against, '95 % interval', 'by seed']]
    for name in table['rows']:
        row = rows[name]
        lines.append(
            [
                name,
                _number(row['mean']),
                _number(row['deviation']),
                *(['', ''] if name == table['against'] else _change(table['differences'][name])),
                ', '.join(map(_number, row['values'].values())) or MISSING,
            ]
        )
    return lines


def _change(difference: dict | None) -> list[str]:
    if difference is None:
        return [MISSING, MISSING]
    mean, low, high = difference['mean'], difference['low'], difference['high']
    return [f'{mean:+.2f}', MISSING if low is None else f'{low:+.2f} to {high:+.2f}']


def _number(value: float | None) -> str:
    return MISSING if value is None else f'{value:.2f}'
