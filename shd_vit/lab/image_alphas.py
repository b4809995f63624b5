"""Merging weights of the teacher of a distiller's config, over images."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from shd_vit.hosts.mmpretrain.distiller import ViTDistiller
from shd_vit.lab.alphas import Alphas, gather_alphas
from shd_vit.lab.models import teacher_taps
from shd_vit.pairing.tokens import ALL_TOKENS, KeptTokens


def collect_alphas(
    distiller: ViTDistiller,
    batches: Iterable[Tensor],
    num_heads: int,
    temperature: float,
    tokens: KeptTokens = ALL_TOKENS,
) -> Alphas:
    """:func:`gather_alphas` of all layers of a distiller's teacher.

    Args:
        distiller: Whose teacher is looked at.
        batches: Images (B, C, h, w), normalised for the student.
        num_heads: Heads to leave.
        temperature: T_a of the maps.
        tokens: Of the teacher, those that are compared; all by default.

    Raises:
        ConfigError: If no layer has heads to merge.
    """
    with teacher_taps(distiller) as (bank, taps_of):
        heads = dict(zip(bank.layers, bank.anatomy.heads, strict=True))
        taps = (
            {layer: tokens.of(tap) for layer, tap in taps_of(images).items()} for images in batches
        )
        return gather_alphas(heads, taps, num_heads, temperature)
