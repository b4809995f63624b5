"""Attention maps from queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor

from shd_vit.functional.masks import ALL_KEYS, Mask, ignored_queries, scaled


def attention_maps(
    query: Tensor,
    key: Tensor,
    scale: float,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    mask: Mask = ALL_KEYS,
) -> Tensor:
    """Softmax attention maps at temperature T_a (Eq. 10 of arXiv 2502.07436).

    ``softmax((Q K^T * scale + bias) / T_a)`` in float32 (float64 for float64 input), whatever
    autocast says.

    Args:
        query: (B, H, N, D).
        key: (B, H, M, D); M = N unless ``mask.offset`` says more.
        scale: Factor on the dot products, usually D^-0.5.
        temperature: T_a, above 0; values above 1 flatten the maps.
        bias: Additive mask (-inf) or position bias, or bool (True where a key is seen),
            broadcastable to (B, H, N, M).
        mask: What is masked besides.

    Returns:
        (B, H, N, M). Every row is a distribution over the keys, or 0 where it does not count
        (:func:`counted_rows`).
    """
    factor = softmax_factor(scale, temperature)
    B, N, M = len(query), query.shape[2], key.shape[2]
    visible = mask.dense(B, N, M, query.device)
    bias = scaled(bias, temperature)
    ignored = ignored_queries(bias, mask, B, N, M, query.device)
    with torch.autocast(query.device.type, enabled=False):
        return masked_maps(query, key, factor, bias, visible, ignored)


def masked_maps(
    query: Tensor,
    key: Tensor,
    factor: float,
    bias: Tensor | None,
    visible: Tensor | None,
    ignored: Tensor | None,
) -> Tensor:
    """Softmax of :func:`attention_logits`, 0 in ignored rows."""
    maps = attention_logits(query, key, factor, bias, visible, ignored).softmax(-1)
    return maps if ignored is None else maps.masked_fill(ignored, 0)


def attention_logits(
    query: Tensor,
    key: Tensor,
    factor: float,
    bias: Tensor | None = None,
    visible: Tensor | None = None,
    ignored: Tensor | None = None,
) -> Tensor:
    """``Q K^T * factor + bias`` (B, H, N, M), in float32 at least.

    As good as -inf where a key is not visible, and 0 in rows that are ignored: -inf alone would be
    NaN after the softmax, and in its gradient. ``visible`` is of the last keys; all see the others.
    """
    if query.dtype != key.dtype:  # neither is rounded to the other's type
        query, key = widen(query), widen(key)
    query, key = dense_heads(query), dense_heads(key)
    # Rounded to half precision, a scaled query would move the logits.
    if query.dtype.itemsize == 2:
        logits = product(query, key.mT).mul_(factor)
    else:
        logits = product(query * factor, key.mT)
    if bias is not None and bias.dtype == torch.bool:
        logits = logits.masked_fill_(~bias, _hidden(logits))
    elif bias is not None:
        logits = logits.add_(bias)
    if visible is not None:
        end = logits[..., logits.shape[-1] - visible.shape[-1] :]
        end.masked_fill_(~visible, _hidden(logits))
    return logits if ignored is None else logits.masked_fill_(ignored, 0)


def _hidden(logits: Tensor) -> float:
    """A logit whose softmax is 0, finite as its logarithm."""
    return torch.finfo(logits.dtype).min / 4


def dense_heads(heads: Tensor) -> Tensor:
    """Products of strided batches are slow; of one sample, runs of tokens do as they are."""
    is_run = len(heads) == 1 and heads.stride(-1) == 1 and heads.stride(-2) == heads.shape[-1]
    return heads if is_run else heads.contiguous()


def softmax_factor(scale: float, temperature: float) -> float:
    """``scale / T_a``, for a T_a above 0."""
    if not temperature > 0:
        raise ValueError(f'temperature={temperature} must be above 0')
    return scale / temperature


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
