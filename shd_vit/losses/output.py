"""Distillation of what a model gives, as it is."""

from __future__ import annotations

from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.functional.attention import widen
from shd_vit.losses.base import DistillationLoss
from shd_vit.pairing import ModelOutput, Needs
from shd_vit.taps import Anatomy


class OutputLoss(DistillationLoss):
    """The student's output follows the teacher's, ``weight * mean squared error``.

    Of a diffusion model, the mean over batch, channels and pixels of its prediction of noise, v or
    x_0, without the variance; of a classifier, over its logits. It has no weights.

    Args:
        weight: Weight of the loss.
    """

    mean_over = 'rows'

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = self.number('weight', weight)

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        return Needs(logits=True), Needs(logits=True)

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor | None) -> Tensor:
        learned, taught = student.logits, teacher.logits.detach()
        if learned.shape != taught.shape:
            raise ConfigError(
                f'the student gives {tuple(learned.shape)}, the teacher {tuple(taught.shape)}: '
                'OutputLoss compares outputs of one shape'
            )
        return self.weight * (widen(learned) - widen(taught)).square().mean()
