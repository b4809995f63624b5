"""Distillation of logits."""

from __future__ import annotations

from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.functional import hard_labels, kd_loss, nkd_loss
from shd_vit.losses.base import DistillationLoss
from shd_vit.pairing import ModelOutput


class _LogitLoss(DistillationLoss):
    """Weight and temperature, which both losses on logits have."""

    def __init__(self, weight: float, temperature: float) -> None:
        super().__init__()
        if not temperature > 0:
            raise ConfigError(f'{type(self).__name__}.temperature={temperature} must be above 0')
        self.weight = weight
        self.temperature = temperature

    def extra_repr(self) -> str:
        return f'weight={self.weight}, temperature={self.temperature}'


class KDLoss(_LogitLoss):
    """Hinton's distillation, ``weight * T^2 * KL(teacher || student)`` (arXiv 1503.02531).

    Args:
        weight: Weight of the loss.
        temperature: T of both softmaxes, above 0.
    """

    def __init__(self, weight: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__(weight, temperature)

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor) -> Tensor:
        return self.weight * kd_loss(student.logits, teacher.logits, self.temperature)


class NKDLoss(_LogitLoss):
    """Normalised knowledge distillation (NKD, arXiv 2303.13005).

    Mixed labels count as their largest class.

    Args:
        gamma: Weight of the non-target classes. The authors use 1.0 beside ViTKD.
        temperature: T of the non-target classes, above 0.
        weight: Weight of the loss.
    """

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(weight, temperature)
        self.gamma = gamma

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor) -> Tensor:
        labels = hard_labels(target)
        return self.weight * nkd_loss(
            student.logits, teacher.logits, labels, self.gamma, self.temperature
        )

    def extra_repr(self) -> str:
        return f'gamma={self.gamma}, {super().extra_repr()}'
