"""Feature distillation through a linear projector."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from shd_vit.functional.attention import widen
from shd_vit.losses.base import Layers, ProjectedLoss
from shd_vit.pairing import ModelOutput
from shd_vit.pairing.tokens import tokens_of_pair


class FeatureProjectorLoss(ProjectedLoss):
    """The student's block outputs, projected, follow the teacher's ("FD+Projector").

    ``weight * sum over pairs of layers of MSE(P(F_s), F_t)``: F are the outputs of whole blocks,
    un-normed, with all tokens but padding; P is a Linear of its own for each pair; the squared
    error is a mean over batch, tokens and the teacher's channels. A baseline in Table 5 of arXiv
    2502.07436, which says that the projector is a single linear map; the reduction is chosen here.

    Args:
        student_dims: Width of the student. None takes it from the model.
        teacher_dims: Width of the teacher. None takes it from the model.
        weight: Weight of the loss. At 0.1, an untrained pair of models costs 0.05 to 0.15 a pair
            of layers; the block outputs of a trained teacher can be far larger.
        layers: 'uniform', 'last' or a list of (student, teacher) layers, counted from 1, as in
            :func:`layer_pairs`.
    """

    def __init__(
        self,
        student_dims: int | None = None,
        teacher_dims: int | None = None,
        weight: float = 0.1,
        layers: Layers = 'uniform',
    ) -> None:
        super().__init__(student_dims, teacher_dims, weight, layers)

    def make_projector(self, student_dims: int, teacher_dims: int) -> nn.Linear:
        return nn.Linear(student_dims, teacher_dims)

    def of_pair(self, number: int, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        (s, t), projector = self.pairs[number], cast(nn.Linear, self.projectors[number])
        taps = student.tokens[s], teacher.tokens[t]
        student_BNS, teacher_BNT, mask_BN = tokens_of_pair(*taps, 'FeatureProjectorLoss')
        projected_BNT = widen(projector(student_BNS.to(projector.weight.dtype)))
        if mask_BN is None:
            return F.mse_loss(projected_BNT, widen(teacher_BNT))
        error_BN = (projected_BNT - widen(teacher_BNT)).square().mean(dim=-1)
        return (error_BN * mask_BN).sum() / mask_BN.sum().clamp(min=1)
