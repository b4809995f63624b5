"""Merging weights of a teacher over many images, before clamping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from shd_vit.distillation import FrozenTeacher
from shd_vit.errors import ConfigError
from shd_vit.lab.maps import squeeze_tap
from shd_vit.lab.merging import merged_heads
from shd_vit.pairing.tokens import ALL_TOKENS, KeptTokens
from shd_vit.taps import TapBank

Alphas = dict[int, dict[str, np.ndarray]]


def collect_alphas(
    distiller: Any,
    batches: Iterable[Tensor],
    num_heads: int,
    temperature: float,
    tokens: KeptTokens = ALL_TOKENS,
) -> Alphas:
    """Raw alphas of every teacher layer that has more than ``num_heads`` heads.

    Args:
        distiller: Its teacher is looked at, all layers of it.
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
    bank = TapBank(distiller.teacher, role='teacher')
    heads = dict(zip(bank.layers, bank.anatomy.heads, strict=True))
    if not 1 <= num_heads < max(heads.values()):
        bank.close()
        raise ConfigError(
            f'--heads {num_heads} leaves nothing to merge: the teacher has {max(heads.values())} '
            'heads, so 1 to one fewer are allowed'
        )
    teacher = FrozenTeacher(distiller.teacher, bank)
    passes = {layer: merged_heads(heads[layer], num_heads)[0] for layer in heads}
    parts: dict[Any, dict[str, list]] = {
        layer: {m.name: [] for made in ps for m in made} for layer, ps in passes.items()
    }
    try:
        for images in batches:
            for layer, tap in teacher(distiller.call_teacher, images).attention.items():
                raws = squeeze_tap(tokens.of(tap), num_heads, temperature).raw_alphas
                for made, raw in zip(passes[layer], raws, strict=True):
                    for merge, values in zip(made, raw.T, strict=True):
                        parts[layer][merge.name].append(values.cpu().numpy())
    finally:
        bank.close()
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
