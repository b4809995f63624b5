"""Attention maps from queries and keys."""

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
        bias: Additive mask (-inf) or position bias, broadcastable to (B, H, N, N).

    Returns:
        (B, H, N, N). Every row is a distribution over the keys, or 0 where it does not count
        (:func:`counted_rows`).
    """
    factor = softmax_factor(scale, temperature)
    with torch.autocast(query.device.type, enabled=False):
        if bias is None:
            return attention_logits(query, key, factor).softmax(-1)
        logits = attention_logits(query, key, factor, bias / temperature)
        return logits.softmax(-1).masked_fill(ignored_rows(bias), 0)


def attention_logits(
    query: Tensor, key: Tensor, factor: float, bias: Tensor | None = None
) -> Tensor:
    """``Q K^T * factor + bias``, (B, H, N, N), in float32 at least; 0 in rows that do not count."""
    if query.dtype != key.dtype:  # neither is rounded to the other's type
        query, key = widen(query), widen(key)
    query, key = query.contiguous(), key.contiguous()  # products of strided batches are slow
    # Rounded to half precision, a scaled query would move the logits.
    if query.dtype.itemsize == 2:
        logits = product(query, key.mT).mul_(factor)
    else:
        logits = product(query * factor, key.mT)
    if bias is None:
        return logits
    # A row of -inf alone would be NaN after the softmax, and in its gradient.
    return logits.add_(bias).masked_fill_(ignored_rows(bias), 0)


def softmax_factor(scale: float, temperature: float) -> float:
    """``scale / T_a``, for a T_a above 0."""
    if not temperature > 0:
        raise ValueError(f'temperature={temperature} must be above 0')
    return scale / temperature


def counted_rows(bias: Tensor) -> Tensor:
    """Which query rows have a part in losses: bool, (..., N or 1) for a bias (..., N or 1, N).

    Not those that see no key, and not those of padding: tokens whose own key no query sees.
    """
    visible = torch.atleast_2d(bias) != float('-inf')  # NaN is seen, and makes the loss NaN
    return visible.any(-1) & visible.any(-2)


def ignored_rows(bias: Tensor) -> Tensor:
    """The rows that do not count, (..., N or 1, 1)."""
    return ~counted_rows(bias)[..., None]


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` of 4-d batches, summed and returned in float32 (or float64).

    If ``right`` is in half precision, ``left`` is rounded to it: tensor cores multiply such
    operands exactly.
    """
    left = left.to(right.dtype)
    if right.is_cuda and right.dtype.itemsize == 2:
        flat = torch.bmm(left.flatten(0, 1), right.flatten(0, 1), out_dtype=torch.float32)
        return flat.unflatten(0, left.shape[:2])
    return widen(left) @ widen(right)


def widen(tensor: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def batch_slice(bias: Tensor | None, batch: int, chunk: slice) -> Tensor | None:
    """The part of a bias, or of anything with the batch first, for a slice of the batch.

    A bias (W, H, N, N) of a batch of B = B' W windows, image by image, repeats every W.
    """
    if bias is None or bias.dim() < 4 or len(bias) == 1:
        return bias
    if len(bias) == batch:
        return bias[chunk]
    return bias[torch.arange(*chunk.indices(batch), device=bias.device) % len(bias)]
