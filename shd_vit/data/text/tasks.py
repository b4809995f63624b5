"""Tasks to fine-tune on: folders of files with a sentence, or two, and a label a line."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from shd_vit.errors import DatasetError

# Columns as GLUE and SuperGLUE name them; the first that are all there are read.
SENTENCES = (
    ('sentence1', 'sentence2'),
    ('question1', 'question2'),
    ('question', 'sentence'),
    ('question', 'passage'),
    ('#1 String', '#2 String'),
    ('sentence',),
)
LABELS = ('label', 'gold_label', 'is_duplicate', 'Quality')
SCORE = 'score'  # a number, to be told as such
COLA = ('source', 'label', 'mark', 'sentence')  # the names of columns that CoLA's files leave out
TRAIN = 'train'
ORDER = (TRAIN, 'val', 'dev', 'test')  # of sets; others come after


class Rows(NamedTuple):
    """Texts, those of two sentences joined by a line break, and of each the class or the score."""

    texts: list[str]
    targets: list[Any]


class Task(NamedTuple):
    """What a folder holds.

    Attributes:
        name: Of the folder.
        classes: Labels by number, sorted, numbers by value; empty where scores are told.
        train: To learn from.
        sets: To be told, by name of the file.
        unlabelled: Files without labels, which are left out.
    """

    name: str
    classes: list[str]
    train: Rows
    sets: dict[str, Rows]
    unlabelled: list[str]

    @property
    def is_regression(self) -> bool:
        return not self.classes


def load_task(folder: str | Path) -> Task:
    """The task in a folder: train.tsv, and every other .tsv or .jsonl with labels to be told.

    Files of GLUE (tab-separated, CoLA's without headings) and SuperGLUE (BoolQ) are read as they
    are. A column ``score`` makes it a regression, as STS-B's.

    Raises:
        DatasetError: If there is no file to learn from or none to tell, or a line does not fit;
            naming it.
    """
    folder = Path(folder)
    found = sorted(folder.glob('*'), key=lambda path: (_place(path.stem), path.name))
    files = {path.stem: path for path in found if path.suffix in ('.tsv', '.jsonl')}
    if TRAIN not in files:
        raise DatasetError(f'{str(folder)!r} has no train.tsv or train.jsonl to learn from')
    read = {name: _labelled(path) for name, path in files.items()}
    labelled = {name: rows for name, rows in read.items() if rows is not None}
    if TRAIN not in labelled or len(labelled) < 2:
        what = 'label in train' if TRAIN not in labelled else 'file with labels beside train'
        raise DatasetError(f'{str(folder)!r} has no {what}: expected {", ".join(LABELS)} or score')
    is_score = labelled[TRAIN].name == SCORE
    classes = [] if is_score else sorted({*labelled[TRAIN].labels}, key=_by_value)
    if not is_score and len(classes) < 2:
        raise DatasetError(f'{str(files[TRAIN])!r} has one label alone, {classes[0]!r}')
    sets = {
        name: Rows(rows.texts, _targets(rows.labels, classes, files[name]))
        for name, rows in labelled.items()
    }
    train = sets.pop(TRAIN)
    return Task(folder.name, classes, train, sets, [n for n, rows in read.items() if rows is None])


class _Labelled(NamedTuple):
    texts: list[str]
    labels: list[str]
    name: str  # of the column with the labels


def _labelled(path: Path) -> _Labelled | None:
    """Texts and labels of a file; None if it has no labels."""
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f'{str(path)!r} cannot be read: {error}') from None
    lines = [line for line in text.split('\n') if line.strip()]
    rows = _of_json(lines, path) if path.suffix == '.jsonl' else _of_tsv(lines, path)
    if not rows:
        raise DatasetError(f'{str(path)!r} has no rows')
    names = next((names for names in SENTENCES if set(names) <= rows[0].keys()), None)
    label = next((name for name in (*LABELS, SCORE) if name in rows[0]), None)
    if names is None:
        raise DatasetError(f'{str(path)!r} has no column of sentences, but {", ".join(rows[0])}')
    if label is None:
        return None
    texts = ['\n'.join(row[name].strip() for name in names) for row in rows]
    return _Labelled(texts, [row[label].strip() for row in rows], label)


def _of_tsv(lines: list[str], path: Path) -> list[dict[str, str]]:
    rows = list(csv.reader(lines, delimiter='\t', quoting=csv.QUOTE_NONE))
    is_cola = bool(rows) and len(rows[0]) == len(COLA) and rows[0][1] in ('0', '1')
    names = list(COLA) if is_cola else rows.pop(0) if rows else []
    for number, row in enumerate(rows, 1 if is_cola else 2):
        if len(row) != len(names):
            raise DatasetError(
                f'{str(path)!r}, line {number}: {len(row)} columns, expected {len(names)}'
            )
    return [dict(zip(names, row, strict=True)) for row in rows]


def _of_json(lines: list[str], path: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not isinstance(values, dict) or (rows and values.keys() != rows[0].keys()):
            raise DatasetError(f'{str(path)!r}, line {number}: no object, or other entries')
        rows.append({name: str(value) for name, value in values.items()})
    return rows


def _targets(labels: list[str], classes: list[str], path: Path) -> Any:
    numbers = {label: number for number, label in enumerate(classes)}
    for label in labels:
        if classes and label not in numbers:
            raise DatasetError(
                f'{str(path)!r} has the label {label!r}, train has {", ".join(classes)}'
            )
    return [numbers[label] if classes else _score(label, path) for label in labels]


def _score(text: str, path: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f'{str(path)!r} has the score {text!r}, which is no number')
    return value


def _place(name: str) -> int:
    """Where a set stands: what is most alike to training first."""
    return next((i for i, start in enumerate(ORDER) if name.startswith(start)), len(ORDER))


def _by_value(label: str) -> tuple[int, str]:
    return (int(label), '') if label.lstrip('-').isdigit() else (0, label)
