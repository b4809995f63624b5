"""Instructions about words: to define one, use it, name its kind or topic, or find it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shd_vit.data.text.instructions import template
from shd_vit.data.text.wordnet import Sense
from shd_vit.errors import ConfigError, DatasetError, check_number
from shd_vit.files import write_whole

NAMES = dict(noun='noun', verb='verb', adj='adjective', adv='adverb')
LONGEST = 24  # words of a meaning or an example: small models see few tokens at once
SETS = ('train', 'validation', 'test', 'unseen')


class Task(NamedTuple):
    """What is asked about a word.

    Attributes:
        seen: Instructions of all sets but one.
        unseen: Instructions of that one alone.
        answers: Of a sense; none where it cannot be asked.
        is_of_meaning: Whether the input is the meaning, and the word the answer.
    """

    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    answers: Callable[[Sense], Iterable[str]]
    is_of_meaning: bool = False


def _uses(sense: Sense) -> list[str]:
    found = [x for x in sense.examples if sense.words[0] in x.lower().split()]
    return [x for x in found if 2 < len(x.split()) <= LONGEST]


def _kinds(sense: Sense) -> list[str]:
    return list(sense.above) if sense.kind in ('noun', 'verb') else []


TASKS = dict(
    define=Task(
        (
            "What does the {kind} '{word}' mean?",
            "Define the {kind} '{word}'.",
            "Give the meaning of the {kind} '{word}'.",
        ),
        ("Explain the {kind} '{word}' to somebody who has never heard it.",),
        lambda sense: [sense.meaning],
    ),
    use=Task(
        (
            "Use the {kind} '{word}' in a sentence.",
            "Write an example of how the {kind} '{word}' is used.",
            "Show the {kind} '{word}' in context.",
        ),
        ("Make up a short text in which the {kind} '{word}' stands.",),
        _uses,
    ),
    kind=Task(
        (
            "What is the {kind} '{word}' a kind of?",
            "Name what the {kind} '{word}' is a kind of.",
            "Give a more general word for the {kind} '{word}'.",
        ),
        ("To which class does the {kind} '{word}' belong?",),
        _kinds,
    ),
    topic=Task(
        (
            "What is the {kind} '{word}' about?",
            "Name the topic of the {kind} '{word}'.",
            "Under which heading is the {kind} '{word}' found?",
        ),
        ("Say in one word what area the {kind} '{word}' comes from.",),
        lambda sense: [sense.topic] if sense.topic else [],
    ),
    word=Task(
        (
            'Give a word with this meaning.',
            'Which {kind} means this?',
            'Name the {kind} that is defined so.',
        ),
        ('Find the {kind} for which a dictionary says this.',),
        lambda sense: sense.words,
        is_of_meaning=True,
    ),
)


def plain(instruction: str, input: str = '') -> str:
    """A prompt without Alpaca's template, for models that see few tokens at once."""
    return f'{instruction}\n{input}\n' if input else f'{instruction}\n'


def make_rows(
    words: Mapping[str, list[Sense]],
    sizes: Mapping[str, int],
    seed: int,
    prompt: Callable[[str, str], str] = template,
    tasks: Sequence[str] = tuple(TASKS),
) -> dict[str, list[dict[str, Any]]]:
    """Rows of each set: {'prompt', 'output', 'task', 'word'}; an output is one text or several.

    A word is in one set alone, with one task, drawn from those that can be asked of it. 'unseen'
    asks the words of 'test' the same in instructions that no other set has.

    Args:
        words: With their senses.
        sizes: Rows of each set but 'unseen', which has those of 'test'.
        seed: Of the order of words, and of the choice of instructions.
        prompt: Makes a prompt of an instruction and an input, '' for none.
        tasks: Of :data:`TASKS`, that are asked.

    Raises:
        ConfigError: If a size is none, or there is no such task.
        DatasetError: If there are too few words.
    """
    for name, size in sizes.items():
        check_number(f'--{name}', size, whole=True, positive=True)
    for task in tasks:
        if task not in TASKS:
            raise ConfigError(f'--tasks {task!r} must be one of {", ".join(TASKS)}')
    draw = random.Random(seed)
    order = sorted(words)
    draw.shuffle(order)
    drawn = ((word, _question(words[word], draw, tasks)) for word in order)
    asked = ((word, question) for word, question in drawn if question)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SETS}
    for name, size in sizes.items():
        for _ in range(size):
            found = next(asked, None)
            if found is None:
                raise DatasetError(
                    f'there are words for {sum(map(len, rows.values()))} rows alone, '
                    f'not for {sum(sizes.values())}: ask for less'
                )
            rows[name].append(_row(*found, draw, prompt, is_seen=True))
            if name == 'test':
                rows['unseen'].append(_row(*found, draw, prompt, is_seen=False))
    return rows


def _question(
    senses: list[Sense], draw: random.Random, tasks: Sequence[str]
) -> tuple[str, list[Sense]] | None:
    """A task, and the senses of one kind of word that it can be asked of."""
    kind = senses[0].kind
    own = [s for s in senses if s.kind == kind and len(s.meaning.split()) <= LONGEST]
    for name in draw.sample(tasks, len(tasks)):
        if able := [sense for sense in own if list(TASKS[name].answers(sense))]:
            return name, able[:1] if TASKS[name].is_of_meaning else able
    return None


def _row(
    word: str,
    question: tuple[str, list[Sense]],
    draw: random.Random,
    prompt: Callable[[str, str], str],
    is_seen: bool,
) -> dict[str, Any]:
    name, senses = question
    task = TASKS[name]
    text = draw.choice(task.seen if is_seen else task.unseen)
    instruction = text.format(kind=NAMES[senses[0].kind], word=word)
    answers = list(dict.fromkeys(x for sense in senses for x in task.answers(sense)))
    text = prompt(instruction, senses[0].meaning if task.is_of_meaning else '')
    output = answers[0] if len(answers) == 1 else answers
    return dict(prompt=text, output=output, task=name, word=word)


def write_rows(rows: Mapping[str, list[dict[str, Any]]], out: Path) -> None:
    """Write SET.jsonl of each set into a folder.

    Raises:
        ConfigError: If one is there already.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in rows:
        if (path := out / f'{name}.jsonl').exists():
            raise ConfigError(f'{str(path)!r} exists: remove it, or choose another folder')
    for name, own in rows.items():
        with write_whole(out / f'{name}.jsonl') as part:
            part.write_text(''.join(json.dumps(row) + '\n' for row in own), encoding='utf-8')
