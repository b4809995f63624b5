"""What a trainer reads: sequences of a text, or rows of instructions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Subset
from transformers import TrainerCallback

from shd_vit.data.text.instructions import load_rows
from shd_vit.data.text.tokens import Chunks, TokenFile
from shd_vit.errors import ConfigError, check_number
from shd_vit.lab.language.settings import Settings

Pair = tuple[Any, Any]  # to train on, and to validate with or None
# Of a row of instructions, by what a trainer reads.
FORMS: dict[str, Callable[[Any], dict[str, Any]]] = {
    'prompts': lambda row: dict(prompt=row['prompt']),
    'completions': lambda row: dict(prompt=row['prompt'], completion=row['references'][0]),
    'messages': lambda row: dict(
        messages=[
            dict(role='user', content=row['prompt']),
            dict(role='assistant', content=row['references'][0]),
        ]
    ),
}
# For tokenizers without one: the prompt is in its template already.
PLAIN_CHAT = (
    '{% for message in messages %}{{ message.content }}'
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


class OffsetOfEpoch(TrainerCallback):
    """Has sequences of a text cut at the offset of the epoch.

    accelerate tells a data set its epoch where there is one process, and not where there are more.
    """

    def __init__(self, chunks: Chunks) -> None:
        self.chunks = chunks

    def on_epoch_begin(self, args, state, control, **kwargs: Any) -> None:
        self.chunks.set_epoch(int(state.epoch or 0))


def read_rows(settings: Settings, form: str, seed: int, longest: int | None) -> Pair:
    """What a trainer of a kind reads.

    Args:
        settings: With ``text`` or ``instructions``.
        form: 'tokens' or a key of :data:`FORMS`.
        seed: Of the offsets of sequences.
        longest: Tokens that the model can see at once; None if nothing limits them.

    Raises:
        ConfigError: If the trainer reads another kind of rows, or a number cannot be.
        DatasetError: If files are missing or damaged.
    """
    wanted = 'text' if form == 'tokens' else 'instructions'
    if not getattr(settings, wanted):
        raise ConfigError(f'trainer={settings.trainer!r} is trained on {wanted}: give that section')
    if form == 'tokens':
        return _of_text(settings.text, seed, longest)
    return _of_instructions(settings.instructions, FORMS[form])


def plain_text(
    settings: Settings, form: str, argument: str, seed: int, longest: int | None
) -> dict[str, Any]:
    """The text that a trainer reads beside instructions, by the argument that takes it.

    Args:
        settings: May have both.
        form: What the trainer is trained on, as of :func:`read_rows`.
        argument: '' if it takes no text.
        seed: As of :func:`read_rows`.
        longest: As of :func:`read_rows`.

    Raises:
        ConfigError: If there is a section that the trainer does not read.
    """
    beside = settings.instructions if form == 'tokens' else settings.text
    if not beside:
        return {}
    if not argument:
        name = 'instructions' if form == 'tokens' else 'text'
        raise ConfigError(f'trainer={settings.trainer!r} reads no {name}: leave that section out')
    for name in ('random_offset', 'validation'):
        if name in beside:
            raise ConfigError(f'text.{name} has no effect beside instructions: leave it out')
    return {argument: _of_text(beside, seed, longest)[0]}


def sequences(count: int, chunks: Dataset) -> Dataset:
    """As many of the chunks, in equal steps through all of them."""
    total = len(chunks)  # type: ignore[arg-type]
    check_number('text.validation', count, positive=True, whole=True, at_most=total)
    return Subset(chunks, np.linspace(0, total - 1, count).round().astype(int).tolist())


def _of_text(text: dict[str, Any], seed: int, longest: int | None) -> Pair:
    length = check_number('text.length', text['length'], positive=True, whole=True)
    if length < 2 or (longest is not None and length > longest):
        raise ConfigError(f'text.length={length} must be between 2 and the {longest} of the model')
    moves = text.get('random_offset', False)
    if not isinstance(moves, bool):
        raise ConfigError(f'text.random_offset={moves!r} must be true or false')
    train = Chunks(TokenFile(text['folder'], 'train').tokens, length, moves, seed)
    validation: Dataset = Chunks(TokenFile(text['folder'], 'validation').tokens, length)
    if 'validation' in text:
        validation = sequences(text['validation'], validation)
    return train, validation


def _of_instructions(files: dict[str, Any], form: Callable[[Any], dict[str, Any]]) -> Pair:
    from datasets import Dataset as Table

    made = {
        name: Table.from_list([form(row) for row in load_rows(file)])
        for name, file in files.items()
    }
    return made['train'], made.get('validation')
