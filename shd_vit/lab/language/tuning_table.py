"""The table of a fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shd_vit.data.text.tasks import Task
from shd_vit.lab.language.tuning import Recipe
from shd_vit.lab.report import Table

HEADINGS = dict(accuracy='accuracy', f1='F1', mcc='MCC', spearman='Spearman', pearson='Pearson')


def table_of(
    task: Task, results: Mapping[str, Mapping[str, Any]], recipe: Recipe, seeds: Sequence[int]
) -> Table:
    """A row a model and set, the constant answer's first: mean and deviation over seeds."""
    first = next(iter(results.values()))['sets']
    measures = list(next(iter(first.values())))
    rows = [['set', 'rows', 'model', *(HEADINGS.get(name, name) for name in measures)]]
    for key, told in task.sets.items():
        for place, (name, found) in enumerate(results.items()):
            cells = [text_of(found['sets'][key][measure]) for measure in measures]
            rows.append([key, f'{len(told.texts):,}', name, *cells] if not place else
                        ['', '', name, *cells])  # fmt: skip
    f1 = '' if task.is_regression else f', F1 of {_class_of_f1(task)}'
    without = f'; without labels: {", ".join(task.unlabelled)}' if task.unlabelled else ''
    title = (
        f'{task.name}: {len(task.train.texts):,} rows of training, {recipe.epochs:g} epochs, '
        f'learning rate {recipe.learning_rate:g}, batch {recipe.batch}, {recipe.length} tokens at '
        f'most, seeds {", ".join(map(str, seeds))}{f1}{without}'
    )
    return title, rows


def text_of(summary: Mapping[str, Any]) -> str:
    """'81.3 ± 0.4'; a dash for what there is no number of."""
    if summary['mean'] is None:
        return '-'
    digits = 1 if abs(summary['mean']) >= 10 else 2
    deviation = '' if summary['std'] is None else f' ± {summary["std"]:.{digits}f}'
    return f'{summary["mean"]:.{digits}f}{deviation}'


def _class_of_f1(task: Task) -> str:
    return f'class {task.classes[1]}' if len(task.classes) == 2 else 'all classes (macro)'
