"""Self-correlation of tokens."""

from __future__ import annotations

from torch import Tensor

from shd_vit.functional import self_correlation_loss
from shd_vit.losses.base import Layers, PairedLoss
from shd_vit.pairing import ModelOutput
from shd_vit.pairing.tokens import tokens_of_pair


class SelfCorrelationLoss(PairedLoss):
    """The student's tokens resemble each other as the teacher's do (arXiv 2502.07436, Eq. 12).

    ``weight * sum over pairs of layers of (1 - Sim(Cor_t, Cor_s))``, where Cor (N x N) holds the
    cosines between all tokens of a block's un-normed output. The paper leaves Sim open: here it is
    the cosine between the two flattened matrices, one a sample, and the mean over the batch. Widths
    may differ, so there is no projector and nothing to learn. Padding has no part. The N x N
    matrices are kept for backward.

    Args:
        weight: Weight of the loss. At 1.0, an untrained pair of models costs 0.2 to 0.7 a pair of
            layers.
        layers: 'uniform', 'last' or a list of (student, teacher) layers, counted from 1, as in
            :func:`layer_pairs`.
    """

    mean_over = 'sequences'

    def __init__(self, weight: float = 1.0, layers: Layers = 'uniform') -> None:
        super().__init__(weight, layers)

    def of_pair(self, number: int, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        s, t = self.pairs[number]
        taps = student.tokens[s], teacher.tokens[t]
        return self_correlation_loss(*tokens_of_pair(*taps, 'SelfCorrelationLoss'))
