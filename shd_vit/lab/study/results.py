"""What a study has found so far: a dict for JSON, and tables of means and how sure they are."""

from __future__ import annotations

from statistics import fmean, median, stdev
from typing import Any, NamedTuple

from scipy.stats import sem, t

from shd_vit.lab.report import Table
from shd_vit.lab.study.plan import Comparison, Study

MISSING = 'n/a'
Values = dict[int, float]  # by seed


class Interval(NamedTuple):
    """A mean with its 95 % confidence interval; no bounds for fewer than two values."""

    mean: float
    low: float | None
    high: float | None


def interval_95(values: list[float]) -> Interval:
    """Mean of at least one value, with the interval of Student's t."""
    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean, None, None)
    half = float(t.ppf(0.975, len(values) - 1) * sem(values))
    return Interval(mean, mean - half, mean + half)


def paired_difference(row: Values, against: Values) -> Interval | None:
    """One row minus the other over the seeds that both have; None if there is no such seed."""
    seeds = sorted(row.keys() & against.keys())
    return interval_95([row[seed] - against[seed] for seed in seeds]) if seeds else None


def results(study: Study, done: list[dict]) -> dict[str, Any]:
    """Cells, rows and tables, of what the finished cells gave."""
    found = {name: [r for r in done if r['row'] == name] for name in study.rows}
    values = {
        name: {r['seed']: r['metrics'][study.metric] for r in own} for name, own in found.items()
    }
    rows = {name: _row(values[name], found[name]) for name in study.rows}
    tables = [_compared(table, values) for table in study.tables]
    return dict(metric=study.metric, cells=done, rows=rows, tables=tables)


def _row(values: Values, done: list[dict]) -> dict[str, Any]:
    """Mean and sample standard deviation; None where there are too few values."""
    numbers = list(values.values())
    steps = [r['step_seconds'] for r in done if r['step_seconds'] is not None]
    return dict(
        mean=fmean(numbers) if numbers else None,
        deviation=stdev(numbers) if len(numbers) > 1 else None,
        values={str(seed): value for seed, value in values.items()},
        step_seconds=median(steps) if steps else None,
    )


def _compared(table: Comparison, values: dict[str, Values]) -> dict[str, Any]:
    pairs = {
        name: paired_difference(values[name], values[table.against])
        for name in table.rows
        if name != table.against
    }
    differences = {name: pair._asdict() if pair else None for name, pair in pairs.items()}
    rows = list(table.rows)
    return dict(title=table.title, against=table.against, rows=rows, differences=differences)


def tables(values: dict) -> list[Table]:
    """Title and rows of each table, headings first, of what results() gives."""
    return [
        (table['title'], _table(values['metric'], table, values['rows']))
        for table in values['tables']
    ]


def _table(metric: str, table: dict, rows: dict[str, dict]) -> list[list[str]]:
    lines = [['', metric, 'deviation', f'minus {table["against"]}', '95 % interval', 'by seed']]
    for name in table['rows']:
        row = rows[name]
        by_seed = ', '.join(map(_number, row['values'].values())) or MISSING
        change = _change(table['differences'][name]) if name != table['against'] else ['', '']
        lines.append([name, _number(row['mean']), _number(row['deviation']), *change, by_seed])
    return lines


def _change(difference: dict | None) -> list[str]:
    if difference is None:
        return [MISSING, MISSING]
    mean, low, high = difference['mean'], difference['low'], difference['high']
    return [f'{mean:+.2f}', MISSING if low is None else f'{low:+.2f} to {high:+.2f}']


def _number(value: float | None) -> str:
    return MISSING if value is None else f'{value:.2f}'
