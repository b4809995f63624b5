"""Attention maps from queries and keys.

Shape legend of this package: B batch, H heads, N tokens, D head width, E model width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention_maps(
    query: Tensor,
    key: Tensor,
    scale: float,
    temperature: float = 1.0,
    bias: Tensor | None = None,
) -> Tensor:
    """Softmax attention maps at temperature T_a (Eq. 10 of arXiv 2502.07436).

    ``softmax((Q K^T * scale + bias) / T_a)`` in float32 (float64 for float64 input), whatever
    autocast says.

    Args:
        query: (B, H, N, D).
        key: (B, H, N, D).
        scale: Factor on the dot products, usually D^-0.5.
        temperature: T_a, above 0; values above 1 flatten the maps.
        bias: Additive mask or position bias, broadcastable to (B, H, N, N).

    Returns:
        (B, H, N, N); every row is a distribution over the keys.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key = widen(query).contiguous(), widen(key).contiguous()
        return attention_logits(query, key, scale, temperature, bias).softmax(-1)


def attention_logits(
    query: Tensor, key: Tensor, scale: float, temperature: float, bias: Tensor | None
) -> Tensor:
    """The argument of the softmax, (B, H, N, N), in the dtype of ``query``."""
    if not temperature > 0:
        raise ValueError(f'temperature={temperature} must be above 0')
    logits = (query * (scale / temperature)) @ key.transpose(-2, -1)
    return logits if bias is None else logits + bias.to(logits.dtype) / temperature


def widen(tensor: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def batch_slice(bias: Tensor | None, batch: int, chunk: slice) -> Tensor | None:
    """The part of a bias (broadcastable to (batch, H, N, N)) for a slice of the batch."""
    return bias[chunk] if bias is not None and bias.dim() == 4 and len(bias) == batch else bias
