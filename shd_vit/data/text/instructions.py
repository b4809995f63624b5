"""Instructions and their responses from files of JSON lines, and the one template of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from shd_vit.errors import DatasetError

# Stanford Alpaca's, which MiniLLM trains and evaluates with.
REQUEST = 'Write a response that appropriately completes the request.'
WITHOUT_INPUT = (
    f'Below is an instruction that describes a task. {REQUEST}\n\n'
    '### Instruction:\n{instruction}\n\n### Response:\n'
)
WITH_INPUT = (
    'Below is an instruction that describes a task, paired with an input that provides further '
    f'context. {REQUEST}\n\n'
    '### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n'
)
# Names of the same thing: MiniLLM's and Alpaca's first, then Dolly's.
INPUTS = ('input', 'context')
RESPONSES = ('output', 'response')
FORMS = (
    "'prompt' and 'output'; 'instruction' and 'output' or 'response', with 'input' or 'context' "
    "where there is one; or 'instruction' and 'instances' of such"
)


class Row(TypedDict):
    """One request.

    Attributes:
        prompt: What a model is to go on from, in the template.
        references: Responses that count as right, one or more, none of them empty.
        question: The request without the template: its input, if it has one, else its instruction.
    """

    prompt: str
    references: list[str]
    question: str


def template(instruction: str, input: str = '') -> str:
    """The prompt of an instruction; an empty input is none."""
    if input.strip():
        return WITH_INPUT.format(instruction=instruction, input=input)
    return WITHOUT_INPUT.format(instruction=instruction)


def load_rows(file: str | Path, min_words: int = 0) -> list[Row]:
    """The rows of a file with a JSON object a line.

    MiniLLM's lines have the prompt as models see it, and one output or several (``<n>`` is their
    line break); Dolly's an instruction, a context and a response; Alpaca's, and those of
    Super-Natural and Unnatural Instructions, an instruction, an input and an output;
    Self-Instruct's an instruction and instances. Other entries of a line are not looked at.

    Args:
        file: JSON lines.
        min_words: Rows are left out whose first reference has fewer words, as in MiniLLM's
            evaluation on Super-Natural and Unnatural Instructions, with 11.

    Raises:
        DatasetError: If the file cannot be read, a line is none of these or has an empty response,
            or no row is left; naming the line.
    """
    try:
        lines = Path(file).read_text(encoding='utf-8').split('\n')
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f'{str(file)!r} cannot be read: {error}') from None
    rows = [
        row
        for number, line in enumerate(lines, 1)
        if line.strip()
        for row in _rows_of(line, f'{str(file)!r}, line {number}')
    ]
    rows = [row for row in rows if len(row['references'][0].split()) >= min_words]
    if not rows:
        of = f' with a response of at least {min_words} words' if min_words else ''
        raise DatasetError(f'{str(file)!r} has no row{of}')
    return rows


def _rows_of(line: str, where: str) -> Iterator[Row]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise DatasetError(f'{where}: no JSON object')
    instances = values.get('instances')
    if instances is None:
        yield _row(values, where)
        return
    if not isinstance(instances, list) or not all(isinstance(one, dict) for one in instances):
        raise DatasetError(f"{where}: 'instances' must be a list of objects")
    for one in instances:
        yield _row(dict(instruction=values.get('instruction'), **one), where)


def _row(values: dict[str, Any], where: str) -> Row:
    references = _references(values, where)
    instruction, input = _text(values, ('instruction',), where), _text(values, INPUTS, where)
    prompt = _text(values, ('prompt',), where).replace('<n>', '\n')
    question = input if input.strip() else instruction
    if not prompt.strip():
        if not instruction.strip():
            raise DatasetError(f'{where}: expected {FORMS}')
        prompt = template(instruction, input)
    return Row(prompt=prompt, references=references, question=question or _without(prompt))


def _references(values: dict[str, Any], where: str) -> list[str]:
    name = next((name for name in RESPONSES if name in values), None)
    if name is None:
        raise DatasetError(f'{where}: expected {FORMS}')
    given = values[name]
    found = given if isinstance(given, list) else [given]
    if not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise DatasetError(f'{where}: {name!r} must be a text that is not empty, or several')
    return found


def _text(values: dict[str, Any], names: tuple[str, ...], where: str) -> str:
    """The first of the entries that is there; '' if none is, or it is null."""
    name = next((name for name in names if values.get(name) is not None), None)
    if name is None:
        return ''
    if not isinstance(values[name], str):
        raise DatasetError(f'{where}: {name!r} must be a text')
    return values[name]


def _without(prompt: str) -> str:
    """What stands in a prompt of the template; of another, all of it."""
    _, _, body = prompt.partition('### Instruction:\n')
    body, mark, _ = body.rpartition('### Response:')
    if not mark:
        return prompt.strip()
    instruction, _, input = body.partition('### Input:\n')
    return (input if input.strip() else instruction).strip()
