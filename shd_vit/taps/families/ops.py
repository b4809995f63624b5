"""What several attention families have in common."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, 3 * H * D) to three views (B, H, N, D)."""
    # Unbound where they stand, so that their gradients are put together in one pass.
    q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).unbind(2)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def heads_first(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, H * D) to a view (B, H, N, D)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def additive_mask(mask: Tensor | None, is_causal: bool, query: Tensor) -> Tensor | None:
    """SDPA's mask arguments as one additive bias: -inf at masked keys."""
    if mask is None and is_causal:
        N = query.shape[-2]
        mask = torch.ones(N, N, dtype=torch.bool, device=query.device).tril()
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, float('-inf'))


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
    """Their sum; None if all are."""
    given = [bias for bias in biases if bias is not None]
    return reduce(torch.add, given) if given else None
