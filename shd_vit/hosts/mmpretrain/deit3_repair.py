"""Repairs of the libraries that shd_vit builds on."""

from __future__ import annotations

from functools import wraps
from typing import Any

from torch import Tensor


def repair_deit3() -> None:
    """Let mmpretrain's DeiT3 normalise what its MLPs read with ``ln2``.

    mmpretrain 1.2.0 takes ``ln1`` there a second time: ``ln2`` is neither used nor trained, and
    weights from elsewhere give other logits than they should, so that DeiT3-Small of mmpretrain's
    own zoo has 35.26 % top-1 instead of 81.35 %
    (https://github.com/open-mmlab/mmpretrain/issues/1614). Where mmpretrain is right already, this
    changes nothing.
    """
    from mmpretrain.models.backbones.deit3 import DeiT3TransformerEncoderLayer as Layer

    if not hasattr(Layer.forward, '__wrapped__'):
        Layer.forward = wraps(Layer.forward)(_forward)


def _forward(self: Any, x: Tensor) -> Tensor:
    """One encoder layer on tokens (B, N, E)."""
    x = x + self.attn(self.ln1(x))
    return self.ffn(self.ln2(x), identity=x)
