"""Distillation of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.functional import hard_labels, kd_loss, nkd_loss
from shd_vit.functional.logits import (
    check_divergence,
    check_logits,
    check_target,
    check_target_shape,
    sums_to_one,
)
from shd_vit.losses.base import DistillationLoss
from shd_vit.pairing import ModelOutput, Needs
from shd_vit.taps import Anatomy


class LogitLoss(DistillationLoss):
    """A loss on logits (R, C), one row a prediction; both models have the same classes.

    Shapes are checked at every batch. So are the values of targets on a CPU; elsewhere, where that
    would wait for the device, at the first batch alone.
    """

    mean_over = 'rows'

    def __init__(self, weight: float, temperature: float) -> None:
        super().__init__()
        self.weight = self.number('weight', weight)
        self.temperature = self.number('temperature', temperature, positive=True)
        self._has_seen_target = False

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        return Needs(logits=True), Needs(logits=True)

    def check(self, logits: Tensor, target: Tensor) -> None:
        """Refuse targets that are not one label a row of ``logits``.

        Raises:
            ConfigError: Naming shapes, or the sample, its label and what is allowed.
        """
        check_target_shape(target, logits)
        is_free = target.device.type == 'cpu' or not self._has_seen_target
        if is_free and not torch.compiler.is_compiling():
            check_target(target, logits.shape[1])
            self._has_seen_target = True

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, temperature={self.temperature}'


class KDLoss(LogitLoss):
    """Hinton's distillation, ``weight * T^2 * KL(teacher || student)`` (arXiv 1503.02531).

    Or the KL the other way round, or Jensen and Shannon's divergence, see :func:`kd_loss`. Labels
    are not read, so there may be none; those that are no single label are refused, as a softmax is
    not for them.

    Args:
        weight: Weight of the loss.
        temperature: T of both softmaxes, above 0.
        reduction: 'rows': the mean over the rows. 'sequences': the sum over the rows of each
            sequence, and the mean over sequences, as in BabyLLaMA: of a language model as many
            times larger as a sequence has predictions. Of a classifier both are the same.
        divergence: 'forward': KL(teacher || student). 'reverse': KL(student || teacher), as in
            MiniLLM. 'jsd': Jensen and Shannon's, half of both against their mean.
    """

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 1.0,
        reduction: str = 'rows',
        divergence: str = 'forward',
    ) -> None:
        super().__init__(weight, temperature)
        if reduction not in ('rows', 'sequences'):
            raise ConfigError(f"KDLoss.reduction={reduction!r} must be 'rows' or 'sequences'")
        check_divergence('KDLoss.divergence', divergence)
        self.reduction = self.mean_over = reduction
        self.divergence = divergence

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor | None) -> Tensor:
        check_logits(student.logits, teacher.logits)
        if target is not None:
            self.check(student.logits, target)
        logits = student.logits, teacher.logits.detach()
        loss = kd_loss(*logits, self.temperature, self.divergence)
        if self.reduction == 'sequences' and student.sequences is not None:
            loss = loss * (len(student.logits) / student.sequences)
        return self.weight * loss

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, reduction={self.reduction}, divergence={self.divergence}'


class NKDLoss(LogitLoss):
    """Normalised knowledge distillation (NKD, arXiv 2303.13005).

    Mixed labels count as their largest class. Scores that are no distribution give NaN where their
    sums are not checked.

    Args:
        gamma: Weight of the non-target classes. The authors use 1.0 beside ViTKD.
        temperature: T of the non-target classes, above 0.
        weight: Weight of the loss.
    """

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(weight, temperature)
        self.gamma = self.number('gamma', gamma)

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor) -> Tensor:
        check_logits(student.logits, teacher.logits)
        self.check(student.logits, target)
        logits = student.logits, teacher.logits.detach()
        loss = nkd_loss(*logits, hard_labels(target), self.gamma, self.temperature)
        if target.dim() > 1:
            loss = loss.masked_fill(~sums_to_one(target).all(), float('nan'))
        return self.weight * loss

    def extra_repr(self) -> str:
        return f'gamma={self.gamma}, {super().extra_repr()}'
