"""Trainers that a file of settings can name."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, fields
from typing import Any

from shd_vit.errors import ConfigError, ShdVitError
from shd_vit.hosts.transformers import DistillMixin
from shd_vit.lab.settings import check_names

OWN = 'shd_vit.hosts.transformers'


@dataclass(frozen=True)
class TrainerKind:
    """A class of trainers.

    Attributes:
        trainer: Module and name, with a colon between.
        arguments: Those of its arguments.
        rows: What it trains on: 'tokens', or one of :data:`shd_vit.lab.language.rows.FORMS`.
        has_teacher: Whether it takes one teacher, ``teacher_model``, and calls it.
        distilling: Its class with distillation terms; '' makes it of ``DistillMixin``.
        text: Its argument that takes plain text beside instructions; '' where there is none.
    """

    trainer: str
    arguments: str
    rows: str
    has_teacher: bool = False
    distilling: str = ''
    text: str = ''

    def arguments_class(self) -> Any:
        return _named(self.arguments)

    def trainer_class(self, has_losses: bool) -> Any:
        """The class; with distillation terms where there are losses."""
        if has_losses and self.distilling:
            return _named(self.distilling)
        cls = _named(self.trainer)
        return type(f'Distill{cls.__name__}', (DistillMixin, cls), {}) if has_losses else cls


TRAINERS = {
    'Trainer': TrainerKind(
        'transformers:Trainer', 'transformers:TrainingArguments', 'tokens', False,
        f'{OWN}:DistillTrainer',
    ),
    'SFTTrainer': TrainerKind('trl:SFTTrainer', 'trl:SFTConfig', 'completions'),
    'GKDTrainer': TrainerKind(
        'trl.experimental.gkd:GKDTrainer', 'trl.experimental.gkd:GKDConfig', 'messages', True
    ),
    'DistillationTrainer': TrainerKind(
        'trl:DistillationTrainer', 'trl:DistillationConfig', 'prompts', True
    ),
    'MiniLLMTrainer': TrainerKind(
        f'{OWN}:MiniLLMTrainer', f'{OWN}:MiniLLMConfig', 'prompts', True,
        f'{OWN}:DistillMiniLLMTrainer', 'lm_dataset',
    ),
}  # fmt: skip


def kind_of(name: str) -> TrainerKind:
    """The kind of trainer of a name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in TRAINERS:
        raise ConfigError(f'trainer={name!r} must be one of {", ".join(TRAINERS)}')
    return TRAINERS[name]


def make_arguments(kind: TrainerKind, given: dict[str, Any]) -> Any:
    """A trainer's arguments by their own names.

    Unless they say so, there are no reports but the log, and no bar where nobody sees it.

    Raises:
        ConfigError: If a name is unknown, or a value is not taken, or output_dir is missing.
    """
    cls = kind.arguments_class()
    check_names(given, [f.name for f in fields(cls) if f.init], 'arguments')
    if not given.get('output_dir'):
        raise ConfigError('arguments.output_dir is missing: the folder of the model to be')
    try:
        return cls(**{'report_to': 'none', 'disable_tqdm': not sys.stderr.isatty(), **given})
    except ShdVitError:
        raise
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f'arguments: {" ".join(str(error).split())[:300]}') from None


def _named(place: str) -> Any:
    module, _, name = place.partition(':')
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f'{name} of {module} is not there ({" ".join(str(error).split())[:120]}): install '
            'shd_vit[lm] on Python 3.11 or newer'
        ) from None
