"""Merging weights of a teacher over many samples, before clamping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from shd_vit.errors import ConfigError
from shd_vit.lab.maps import merged_heads, squeeze_tap
from shd_vit.taps import AttentionTap

Alphas = dict[int, dict[str, np.ndarray]]


@torch.no_grad()
def gather_alphas(
    heads: Mapping[int, int],
    taps: Iterable[Mapping[int, AttentionTap]],
    num_heads: int,
    temperature: float,
) -> Alphas:
    """Raw alphas of every teacher layer that has more than ``num_heads`` heads.

    Args:
        heads: The teacher's, by layer from 1.
        taps: By layer, a batch after the other.
        num_heads: Heads to leave.
        temperature: T_a of the maps.

    Returns:
        By layer and by pair ('1+2', '(1+2)+(3+4)'): (samples,), the weight of the pair's first
        head.

    Raises:
        ConfigError: If no layer has heads to merge.
    """
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
    for batch in taps:
        for layer, tap in batch.items():
            raws = squeeze_tap(tap, num_heads, temperature).raw_alphas
            for made, raw in zip(passes[layer], raws, strict=True):
                for merge, values in zip(made, raw.T, strict=True):
                    parts[layer][merge.name].append(values.cpu().numpy())
    return {
        layer: {name: np.concatenate(values) for name, values in pairs.items()}
        for layer, pairs in parts.items()
        if pairs
    }


def pair_rows(alphas: Alphas, samples: str) -> list[dict]:
    """A record a layer and pair: how many ``samples`` (their name), and :func:`summarise`."""
    return [
        {'layer': layer, 'pair': pair, samples: len(values), **summarise(values)}
        for layer, pairs in alphas.items()
        for pair, values in pairs.items()
    ]


def every_alpha(alphas: Alphas) -> np.ndarray:
    """Those of all layers and pairs in one row."""
    return np.concatenate([values for pairs in alphas.values() for values in pairs.values()])


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
