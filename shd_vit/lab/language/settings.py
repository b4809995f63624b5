"""The file that says how a language model is trained: read, merged, and checked by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from shd_vit.errors import ConfigError
from shd_vit.lab.language.responses import Responses
from shd_vit.lab.settings import build, check_names, read_merged
from shd_vit.lab.study.source import short

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
    """Settings of a file, as :func:`shd_vit.lab.settings.read_merged` reads it.

    Raises:
        ConfigError: Naming the key and what is allowed.
    """
    values = read_merged(path, overrides, 'a model and arguments')
    for name in ('model', 'arguments'):
        if not values.get(name):
            raise ConfigError(f'{str(path)!r} has no {name}')
    settings = build(Settings, values)
    _check(settings)
    return settings


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
        check_names(given, allowed, section, needed if given else ())
    if not settings.losses:
        for name in ('schedules', 'task_loss_weight', 'attention_teacher', 'rows'):
            if getattr(settings, name) not in ({}, None):
                raise ConfigError(f'{name} has no effect without losses')
