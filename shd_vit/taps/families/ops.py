"""What several attention families have in common."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from shd_vit.functional import Mask


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, 3 * H * D) to three views (B, H, N, D)."""
    # Unbound where they stand, so that their gradients are put together in one pass.
    q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).unbind(2)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def heads_first(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, H * D) to a view (B, H, N, D)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def sdpa_mask(mask: Tensor | None, is_causal: bool) -> tuple[Tensor | None, Mask]:
    """SDPA's mask arguments as a tap has them: a bias, bool or additive, and what needs none."""
    return mask, Mask(is_causal=is_causal and mask is None)


def relative_position_bias(attn: Any) -> Tensor | None:
    """(1, H, N, N) from the module's table of relative positions; None if it has none."""
    if attn.relative_position_bias_table is None:
        return None
    index = attn.relative_position_index
    return (
        attn.relative_position_bias_table[index.flatten()]
        .unflatten(0, index.shape)
        .permute(2, 0, 1)[None]
    )


def add_biases(*biases: Tensor | None) -> Tensor | None:
    """Their sum, where bool ones hide the keys at which they are False; None if all are None."""
    given = [bias for bias in biases if bias is not None]
    hiding = [bias for bias in given if bias.dtype == torch.bool]
    added = [bias for bias in given if bias.dtype != torch.bool]
    seen = reduce(torch.logical_and, hiding) if hiding else None
    total = reduce(torch.add, added) if added else None
    if seen is None or total is None:
        return total if seen is None else seen
    return torch.where(seen, total, float('-inf'))
