"""Feature distillation through a linear projector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from shd_vit.functional.attention import widen
from shd_vit.losses.base import ProjectedLoss, check_tokens
from shd_vit.pairing import ModelOutput


class FeatureProjectorLoss(ProjectedLoss):
    """The student's block outputs, projected, follow the teacher's ("FD+Projector").

    ``weight * sum over pairs of layers of MSE(P(F_s), F_t)``: F are the outputs of whole blocks,
    un-normed, with all tokens; P is a Linear of its own for each pair; the squared error is a mean
    over batch, tokens and the teacher's channels. A baseline in Table 5 of arXiv 2502.07436, which
    says that the projector is a single linear map; the reduction is chosen here.

    Args:
        student_dims: Width of the student.
        teacher_dims: Width of the teacher.
        weight: Weight of the loss. At 0.1, an untrained pair of models costs 0.05 to 0.15 a pair
            of layers; the block outputs of a trained teacher can be far larger.
        layers: 'uniform', 'last' or a list of (student, teacher) layers, counted from 1, as in
            :func:`layer_pairs`.
    """

    def __init__(
        self,
        student_dims: int,
        teacher_dims: int,
        weight: float = 0.1,
        layers: str | Sequence[tuple[int, int]] = 'uniform',
    ) -> None:
        super().__init__(student_dims, teacher_dims, weight, layers)

    def make_projector(self) -> nn.Linear:
        return nn.Linear(self.student_dims, self.teacher_dims)

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor) -> Tensor:
        total: Any = 0.0
        for (s, t), projector in zip(self.pairs, self.projectors, strict=True):
            tap_s, tap_t = student.tokens[s], teacher.tokens[t]
            check_tokens(tap_s, tap_t, 'FeatureProjectorLoss')
            total = total + F.mse_loss(widen(projector(tap_s.x)), widen(tap_t.x.detach()))
        return self.weight * total
