"""The file that says how a language model is trained: read, merged, and checked by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from shd_vit.errors import ConfigError
from shd_vit.lab.language.responses import Responses
from shd_vit.lab.study.source import read_source, read_value, short

BASE = 'base'
MAX_BASES = 10
TEXT = ('folder', 'length', 'random_offset', 'validation')
INSTRUCTIONS = ('train', 'validation')


@dataclass
class Settings:
    """How a language model is trained; each field is a section of the file.

    Attributes:
        model: A path, or ``dict(type='LlamaConfig', ...)`` with the fields of that config of
            transformers; and ``initialise_from_teacher``: 'uniform', 'last' or pairs of layers.
        arguments: Of the trainer's own class of arguments, such as TrainingArguments.
        teachers: Paths.
        text: Tokens to pre-train on: ``folder`` of tools/data/prepare_text.py, ``length`` of a
            sequence, ``random_offset`` of each epoch, and how many sequences ``validation`` takes.
        instructions: Files of JSON lines, ``train`` and ``validation``. MiniLLM takes both: its
            language-modelling term has ``text``, of which then ``folder`` and ``length`` count.
        responses: To the instructions of ``data``, drawn from the trained model and held against
            its references: fields of :class:`shd_vit.lab.language.responses.Responses`.
        tokenizer: A folder; by default that of the text, or of the model.
        trainer: Its name, a key of :data:`shd_vit.lab.language.trainers.TRAINERS`.
        losses: By name; with any, ``DistillMixin`` is added to the trainer.
        schedules: Of their weights, by name.
        task_loss_weight: Of the trainer's own loss; only with losses.
        attention_teacher: Which teacher gives maps and hidden states, from 0; only with losses.
        rows: Of maps and hidden states that count, 'all' or 'completion'; only with losses.
    """

    model: str | dict[str, Any]
    arguments: dict[str, Any]
    teachers: list[str] = field(default_factory=list)
    text: dict[str, Any] = field(default_factory=dict)
    instructions: dict[str, Any] = field(default_factory=dict)
    responses: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    trainer: str = 'Trainer'
    losses: dict[str, Any] = field(default_factory=dict)
    schedules: dict[str, Any] = field(default_factory=dict)
    task_loss_weight: float | None = None
    attention_teacher: int | None = None
    rows: str | None = None


def read_settings(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Settings of a file, over those of its ``base``, under those of a command line.

    Args:
        path: .yaml. ``base: other.yaml``, beside it, gives what it does not say itself; mappings
            are merged, and null leaves out what the base has.
        overrides: ``losses.shd.beta=2`` and the like, values as in YAML.

    Raises:
        ConfigError: Naming the key and what is allowed.
    """
    values = _with_bases(Path(path))
    for override in overrides:
        key, is_there, text = override.partition('=')
        if not is_there or not all(key.split('.')):
            raise ConfigError(f'{override!r} must be KEY=VALUE, such as losses.shd.beta=2')
        change: Any = read_value(text)
        for part in reversed(key.split('.')):
            change = {part: change}
        values = merge(values, change)
    names = [f.name for f in fields(Settings)]
    check_names(values, [BASE, *names], '')
    for name in ('model', 'arguments'):
        if not values.get(name):
            raise ConfigError(f'{str(path)!r} has no {name}')
    settings = Settings(**values)
    _check(settings)
    return settings


def merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping over another, key by key; null leaves a key out."""
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            under = merged.get(key)
            merged[key] = merge(under if isinstance(under, Mapping) else {}, value)  # type: ignore[arg-type]
        else:
            merged[key] = value
    return merged


def check_names(given: Mapping[str, Any], allowed: Sequence[str], field: str) -> None:
    """Refuse a name that is not allowed, saying which are and which may be meant.

    Raises:
        ConfigError: Naming the first.
    """
    for name in given:
        if name not in allowed:
            close = get_close_matches(str(name), allowed, n=1)
            meant = f'; did you mean {close[0]}?' if close else ''
            place = f'{field}.{name}' if field else name
            raise ConfigError(f'{place} is unknown; allowed are {", ".join(allowed)}{meant}')


def _with_bases(path: Path) -> dict[str, Any]:
    chain: list[dict[str, Any]] = []
    while True:
        values = read_source(path, 'config', 'a model and arguments')
        chain.append(values)
        base = values.pop(BASE, None)
        if base is None:
            break
        if not isinstance(base, str) or len(chain) > MAX_BASES:
            raise ConfigError(f'{str(path)!r}: base={short(base)} must be a file, and no circle')
        path = path.parent / base
    merged: dict[str, Any] = {}
    for values in reversed(chain):
        merged = merge(merged, values)
    return merged


def _check(settings: Settings) -> None:
    """Refuse sections of other kinds, and what has no effect."""
    for name in ('arguments', 'text', 'instructions', 'responses', 'losses', 'schedules'):
        if not isinstance(getattr(settings, name), dict):
            raise ConfigError(f'{name}={short(getattr(settings, name))} must be a mapping')
    if not isinstance(settings.model, str | dict):
        raise ConfigError(f'model={short(settings.model)} must be a path or a mapping')
    paths = settings.teachers
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise ConfigError(f'teachers={short(paths)} must be a list of paths')
    if not settings.text and not settings.instructions:
        raise ConfigError('give text or instructions: what is trained on')
    for section, allowed, needed in (
        ('text', TEXT, TEXT[:2]),
        ('instructions', INSTRUCTIONS, INSTRUCTIONS[:1]),
        ('responses', [f.name for f in fields(Responses)], ['data']),
    ):
        given = getattr(settings, section)
        check_names(given, allowed, section)
        if missing := [name for name in needed if given and name not in given]:
            raise ConfigError(f'{section}.{missing[0]} is missing')
    if not settings.losses:
        for name in ('schedules', 'task_loss_weight', 'attention_teacher', 'rows'):
            if getattr(settings, name) not in ({}, None):
                raise ConfigError(f'{name} has no effect without losses')
