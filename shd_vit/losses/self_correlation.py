"""Self-correlation of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from shd_vit.functional import self_correlation_loss
from shd_vit.losses.base import PairedLoss, check_tokens
from shd_vit.pairing import ModelOutput


class SelfCorrelationLoss(PairedLoss):
    """The student's tokens resemble each other as the teacher's do (arXiv 2502.07436, Eq. 12).

    ``weight * sum over pairs of layers of (1 - Sim(Cor_t, Cor_s))``, where Cor (N x N) holds the
    cosines between all tokens of a block's un-normed output. The paper leaves Sim open: here it is
    the cosine between the two flattened matrices, one a sample, and the mean over the batch. Widths
    may differ, so there is no projector and nothing to learn. The N x N matrices are kept for
    backward.

    Args:
        weight: Weight of the loss. At 1.0, an untrained pair of models costs 0.2 to 0.7 a pair of
            layers.
        layers: 'uniform', 'last' or a list of (student, teacher) layers, counted from 1, as in
            :func:`layer_pairs`.
    """

    def __init__(
        self, weight: float = 1.0, layers: str | Sequence[tuple[int, int]] = 'uniform'
    ) -> None:
        super().__init__(weight, layers)

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor) -> Tensor:
        total: Any = 0.0
        for s, t in self.pairs:
            tap_s, tap_t = student.tokens[s], teacher.tokens[t]
            check_tokens(tap_s, tap_t, 'SelfCorrelationLoss')
            total = total + self_correlation_loss(tap_s.x, tap_t.x.detach())
        return self.weight * total
