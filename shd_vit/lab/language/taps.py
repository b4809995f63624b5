"""What attention layers of a language model compute their maps from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from shd_vit.hosts.transformers.batch import base_model
from shd_vit.lab.language.models import device
from shd_vit.taps import Anatomy, AttentionTap, TapBank


@contextmanager
def language_taps(
    model: Any, role: str, layers: Sequence[int] | None = None
) -> Iterator[tuple[TapBank, Callable[[Tensor], dict[int, AttentionTap]]]]:
    """Layers of a causal model: their bank, and taps by layer of token ids (B, N) without padding.

    Args:
        model: In eval mode.
        role: How errors name it.
        layers: From 1; None taps all.

    Raises:
        UnsupportedAttention: If a layer's maps cannot be had exactly.
        ConfigError: If there is no such layer.
    """
    bank = TapBank(Anatomy(model, role), layers)
    body = base_model(model).base_model  # without the head, which is dear and not looked at

    @torch.no_grad()
    def taps_of(ids: Tensor) -> dict[int, AttentionTap]:
        with bank.record():
            body(input_ids=ids.to(device()), use_cache=False)
        return dict(zip(bank.layers, bank.collect().attention, strict=True))

    try:
        yield bank, taps_of
    finally:
        bank.close()
