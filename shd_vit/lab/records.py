"""What trainings write down while they run, whichever library they are of."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

Record = dict[str, Any]
LARGEST = 1e100  # of what is averaged
SCALARS = '*/vis_data/scalars.json'  # mmengine's, of all runs in a work dir


def is_number(value: object) -> bool:
    """Whether a value is a finite number of a size to reckon with."""
    return type(value) in (int, float) and -LARGEST < value < LARGEST  # type: ignore[operator]


def read_records(folder: str | Path, pattern: str) -> list[Record]:
    """The records in all files of a pattern, in the order of the files' names.

    A file has a record a line, as JSON or in a .csv with a line of headings; or a JSON value: one
    record, a list, or transformers' trainer_state.json. A line cut short by a kill is left out.
    """
    return [
        record
        for path in sorted(Path(folder).glob(pattern))
        for record in (_of_csv if path.suffix == '.csv' else _of_json)(path)
    ]


def is_training(record: Record) -> bool:
    """Lines of training have a learning rate, lines of validation do not."""
    return 'lr' in record or 'learning_rate' in record


def _of_csv(path: Path) -> list[Record]:
    with open(path, newline='', encoding='utf-8', errors='replace') as file:
        try:
            rows = list(csv.DictReader(file))
        except csv.Error:
            return []
    return [
        {name: _number(text) for name, text in row.items() if isinstance(text, str)} for row in rows
    ]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _of_json(path: Path) -> list[Record]:
    text = path.read_text(encoding='utf-8', errors='replace')
    whole = _parsed(text)
    if isinstance(whole, dict):
        whole = whole.get('log_history', [whole])
    values = whole if isinstance(whole, list) else map(_parsed, text.splitlines())
    return [value for value in values if isinstance(value, dict)]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
