"""Attention transfer between averages over heads."""

from __future__ import annotations

import torch
from torch import Tensor

from shd_vit.functional import attention_maps, counted_rows, mean_map_kl
from shd_vit.functional.attention import widen
from shd_vit.functional.masks import batch_slice
from shd_vit.losses.base import Layers, PairedLoss
from shd_vit.pairing import ModelOutput, Needs
from shd_vit.pairing.layers import check_attended_tokens
from shd_vit.taps import Anatomy, AttentionTap


class AttentionTransferLoss(PairedLoss):
    """The mean of the student's maps follows the mean of the teacher's.

    ``weight * sum over pairs of layers of KL(mean teacher map || mean student map)``, the mean over
    batch and query rows: the plainest way to distil attention between unequal numbers of heads,
    to compare SHD with. Any numbers of heads will do. Masks and padding are treated as in SHDLoss.
    It has no weights. The N x N maps are kept for backward.

    Args:
        weight: Weight of the loss. At 1.0, an untrained pair of four layers costs about 0.1, and
            next to nothing where initial weights make all maps nearly uniform, as timm's do.
        temperature: Attention temperature T_a of both maps, above 0. There is no factor T_a^2.
        layers: 'uniform', 'last' or a list of (student, teacher) layers, counted from 1, as in
            :func:`layer_pairs`.
    """

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 1.0,
        layers: Layers = 'uniform',
    ) -> None:
        super().__init__(weight, layers)
        self.temperature = self.number('temperature', temperature, positive=True)

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        super().bind(student, teacher)
        students, teachers = zip(*self.pairs, strict=True)
        return Needs(attention=students), Needs(attention=teachers)

    def of_pair(self, number: int, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        s, t = self.pairs[number]
        tap_s, tap_t = student.attention[s], teacher.attention[t]
        check_attended_tokens(tap_s, tap_t, (s, t), 'AttentionTransferLoss')
        with torch.no_grad():
            teacher_maps = self._maps(tap_t)
        return mean_map_kl(self._maps(tap_s), teacher_maps, _rows(tap_s, tap_t))

    def _maps(self, tap: AttentionTap) -> Tensor:
        bias = _bias(tap)
        # On CUDA, attention_maps multiplies half precision by an op that has no derivative.
        return attention_maps(widen(tap.q), widen(tap.k), tap.scale, self.temperature, bias)

    def extra_repr(self) -> str:
        return f'temperature={self.temperature}, {super().extra_repr()}'


def _bias(tap: AttentionTap) -> Tensor | None:
    """Of every sample, masks and all."""
    bias = tap.whole_bias()
    return None if bias is None else batch_slice(bias, len(tap.q), slice(None))


def _rows(*taps: AttentionTap) -> Tensor | None:
    """Rows that count in every head of all taps, (B, N); None for all rows."""
    rows = None
    for tap in taps:
        bias = _bias(tap)
        if bias is not None:
            counted = counted_rows(bias).broadcast_to(tap.q.shape[:3]).all(dim=1)
            rows = counted if rows is None else rows & counted
        if (queries := tap.mask.queries) is not None:
            rows = queries if rows is None else rows & queries
    return rows
