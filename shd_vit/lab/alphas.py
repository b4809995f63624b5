"""Merging weights of a teacher over many images, before clamping."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain.distiller import ViTDistiller
from shd_vit.lab.maps import merged_heads, squeeze_tap
from shd_vit.lab.models import teacher_taps
from shd_vit.pairing.tokens import ALL_TOKENS, KeptTokens

Alphas = dict[int, dict[str, np.ndarray]]


def collect_alphas(
    distiller: ViTDistiller,
    batches: Iterable[Tensor],
    num_heads: int,
    temperature: float,
    tokens: KeptTokens = ALL_TOKENS,
) -> Alphas:
    """Raw alphas of every teacher layer that has more than ``num_heads`` heads.

    Args:
        distiller: Whose teacher is looked at, in all layers.
        batches: Images (B, C, h, w), normalised for the student.
        num_heads: Heads to leave.
        temperature: T_a of the maps.
        tokens: Of the teacher, those that are compared; all by default.

    Returns:
        By layer, from 1, and by pair ('1+2', '(1+2)+(3+4)'): (images,), the weight of the pair's
        first head.

    Raises:
        ConfigError: If no layer has heads to merge.
    """
    with teacher_taps(distiller) as (bank, taps_of):
        heads = dict(zip(bank.layers, bank.anatomy.heads, strict=True))
        if not 1 <= num_heads < max(heads.values()):
            raise ConfigError(
                f'--heads {num_heads} leaves nothing to merge: the teacher has '
                f'{max(heads.values())} heads, so 1 to one fewer are allowed'
            )
        passes = {layer: merged_heads(heads[layer], num_heads)[0] for layer in heads}
        parts: dict[int, dict[str, list]] = {
            layer: {merge.name: [] for made in every for merge in made}
            for layer, every in passes.items()
        }
        for images in batches:
            for layer, tap in taps_of(images).items():
                raws = squeeze_tap(tokens.of(tap), num_heads, temperature).raw_alphas
                for made, raw in zip(passes[layer], raws, strict=True):
                    for merge, values in zip(made, raw.T, strict=True):
                        parts[layer][merge.name].append(values.cpu().numpy())
    return {
        layer: {name: np.concatenate(values) for name, values in pairs.items()}
        for layer, pairs in parts.items()
        if pairs
    }


def summarise(values: np.ndarray) -> dict[str, float]:
    """Mean, sample standard deviation, percentiles and the share that clamping would change."""
    low, median, high = np.percentile(values, (5, 50, 95))
    return dict(
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        p5=float(low),
        median=float(median),
        p95=float(high),
        outside=outside(values),
    )


def outside(values: np.ndarray) -> float:
    """Share of the values that are not in [0, 1]."""
    return float(((values < 0) | (values > 1)).mean())
