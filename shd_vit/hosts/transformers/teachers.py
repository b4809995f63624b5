"""The teachers of a trainer that calls the student alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.utils import cached_file

from shd_vit.distillation import Distillation, FrozenTeacher
from shd_vit.errors import ConfigError
from shd_vit.hosts.transformers.batch import (
    Predictions,
    base_model,
    give_positions,
    teacher_inputs,
)
from shd_vit.hosts.transformers.checks import check_model, common_vocabulary
from shd_vit.hosts.transformers.devices import moved
from shd_vit.pairing import ModelOutput
from shd_vit.taps import Anatomy, TapBank


class Teachers:
    """One or several, of which one gives maps and hidden states; logits are their mean.

    Args:
        distillation: Has the one.
        others: The others.
        vocabulary: How many tokens all models have in common; None leaves logits as they are.
        home: Device of the student, to which what teachers leave is brought.
    """

    def __init__(
        self,
        distillation: Distillation,
        others: Sequence[nn.Module],
        vocabulary: int | None,
        home: torch.device,
    ) -> None:
        self.first = distillation.teacher
        self.others = [FrozenTeacher(m, TapBank(Anatomy(m, 'teacher'), [])) for m in others]
        self.vocabulary, self.home = vocabulary, home

    @property
    def models(self) -> list[nn.Module]:
        """All, the one that gives maps first."""
        return [teacher.model for teacher in (self.first, *self.others)]

    def __call__(self, batch: Mapping[str, Any], rows: Predictions | None) -> Tensor | None:
        """Run all of them: the mean of their logits (R, C).

        Args:
            batch: Prepared for the student.
            rows: Of logits; None if no loss reads them, and then the first is run alone.
        """
        logits = self.call(self.first.model, batch, rows)
        if rows is None or not self.others:
            return logits
        more = [other(self.call, other.model, batch, rows).logits for other in self.others]
        return torch.stack([x.float() for x in (logits, *more)]).mean(0)

    def call(self, teacher: nn.Module, batch: Mapping[str, Any], rows: Predictions | None) -> Any:
        """Run one: its logits (R, C), or None if no loss reads them."""
        inputs = teacher_inputs(teacher, batch, wants_logits=rows is not None)
        output = teacher(**moved(inputs, _place_of(teacher)))
        if rows is None:
            return None
        return moved(self.cut(rows.take(output.logits, 'teacher')), self.home)

    def seen(self, output: ModelOutput) -> ModelOutput:
        """What the one that gives maps left, where the student is."""
        return moved(output, self.home)

    def cut(self, logits: Tensor | None) -> Tensor | None:
        """Logits of the tokens that all models have."""
        return None if logits is None else logits[:, : self.vocabulary]


def _place_of(teacher: nn.Module) -> torch.device:
    return next(teacher.parameters()).device


def listed(teachers: Any) -> list[nn.Module]:
    """One teacher or several as a list.

    Raises:
        ConfigError: If it is something else.
    """
    given = [teachers] if isinstance(teachers, nn.Module) else teachers
    are_models = isinstance(given, Sequence) and all(isinstance(m, nn.Module) for m in given)
    if not are_models or not given:
        raise ConfigError(f'teachers={teachers!r} must be a model, or several')
    return list(given)


def place(
    trainer: Any, teachers: list[nn.Module], devices: list[torch.device], tokenizers: Any
) -> int | None:
    """Check a trainer's models and move teachers to their devices.

    Args:
        trainer: Has the student, and its tokenizer if that is known.
        teachers: To be checked and moved.
        devices: Of each.
        tokenizers: Theirs, of each or one of all; None takes those that they were saved with.

    Returns:
        How many tokens all models have in common; None if they do not embed tokens.

    Raises:
        ConfigError: As :func:`check_model` and :func:`common_vocabulary`.
    """
    sizes = []
    check_model(trainer.model, 'student', trainer.args.device)
    is_one = not isinstance(tokenizers, (list, tuple))
    each = [tokenizers] * len(teachers) if is_one else tokenizers
    if len(each) != len(teachers):
        raise ConfigError(
            f'teacher_tokenizers has {len(each)} entries, teachers {len(teachers)}: give one '
            'of each, or one of all'
        )
    for teacher, tokenizer, device in zip(teachers, each, devices, strict=True):
        check_model(teacher, 'teacher', device)
        theirs = tokenizer or _saved_tokenizer(teacher)
        sizes.append(common_vocabulary(trainer.model, teacher, trainer.processing_class, theirs))
        if not getattr(teacher, 'hf_device_map', None):
            teacher.to(device)
    for model in (trainer.model, *teachers):
        give_positions(model)
    return min((size for size in sizes if size is not None), default=None)


def _saved_tokenizer(model: nn.Module) -> Any:
    """The tokenizer beside a model's weights, on this machine; None if there is none."""
    name = getattr(base_model(model), 'name_or_path', None)
    try:
        path = cached_file(name, 'tokenizer.json', local_files_only=True) if name else None
    except OSError:
        return None
    # Not AutoTokenizer, which invents one where there is none.
    return None if path is None else Tokenizer.from_file(path)
