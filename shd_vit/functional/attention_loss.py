"""Distances between attention maps that keep no N x N map for backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from shd_vit.errors import ConfigError
from shd_vit.functional.attention import (
    attention_logits,
    dense_heads,
    product,
    softmax_factor,
    widen,
)
from shd_vit.functional.compiler import choose
from shd_vit.functional.lazy import GivenMaps, LazyMaps
from shd_vit.functional.masks import (
    ALL_KEYS,
    Mask,
    batch_slice,
    check_bias,
    ignored_queries,
    scaled,
    tile_of,
)
from shd_vit.functional.tiles import Tile, batch_chunks, blocks, each_of, is_whole

# exp2 of a CPU is several times faster than exp, which is slower still where the result is 0.
LOG2_E = math.log2(math.e)


def attention_kl(
    query: Tensor,
    key: Tensor,
    target: Tensor | LazyMaps,
    scale: float,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    mask: Mask = ALL_KEYS,
    compiled: bool = False,
) -> Tensor:
    """KL(target || softmax((Q K^T * scale + bias) / T_a)), the L_KL of Eq. 11.

    Summed over keys and heads, averaged over batch and query rows. Only the gradients of query and
    key are kept for backward, not the maps: the gradient of a row's KL with respect to its logits
    is (softmax - target), so both are known as soon as the loss is. Maps are made a few samples, or
    a few rows of a sample, at a time, which bounds all that is temporary; under a causal mask or a
    window no further than the keys that those rows see. Sums are in float32 whatever autocast says;
    differentiable once.

    Args:
        query: (B, H, N, D), the student's.
        key: (B, H, M, D), the student's; M = N unless ``mask.offset`` says more.
        target: (B, H, N, M), a constant; rows sum to 1. Zeros cost nothing (0 log 0 = 0). Or how
            to make it, so that the whole need never exist.
        scale: Factor on the dot products, usually D^-0.5.
        temperature: T_a. There is no factor T_a^2.
        bias: Additive, or bool (True where a key is seen), broadcastable to (B, H, N, M), or
            (W, H, N, M) for a batch of B = B' W windows. A key at -inf has weight 0; rows that do
            not count (:func:`counted_rows`) have no part in the mean. May ask for a gradient.
        mask: What is masked besides.
        compiled: Run what is done to a tile through :func:`torch.compile`.

    Returns:
        Scalar in float32 (float64 for float64 input).

    Raises:
        ConfigError: If shapes differ, or if target asks for a gradient.
    """
    return _attention_loss(_kl, query, key, target, scale, temperature, bias, mask, compiled)


def attention_mse(
    query: Tensor,
    key: Tensor,
    target: Tensor | LazyMaps,
    scale: float,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    mask: Mask = ALL_KEYS,
    compiled: bool = False,
) -> Tensor:
    """``||target - softmax((Q K^T * scale + bias) / T_a)||^2``, the MSE of the paper's Table 10.

    Reduced as :func:`attention_kl`: summed over keys and heads, averaged over batch and query rows.
    Arguments, memory and errors are the same, too.
    """
    return _attention_loss(_mse, query, key, target, scale, temperature, bias, mask, compiled)


def _attention_loss(
    distance, query, key, target, scale, temperature, bias, mask, compiled
) -> Tensor:
    B, H, N, D = query.shape
    M = key.shape[2]
    mask.check(B, N, M)
    if key.shape != (B, H, M, D):
        raise ConfigError(
            f'key {tuple(key.shape)} does not fit query {tuple(query.shape)}: expected '
            f'{(B, H, M, D)}'
        )
    if isinstance(target, Tensor):
        if target.requires_grad and torch.is_grad_enabled():
            raise ConfigError('target is a constant of an attention loss: detach it')
        if target.shape != (B, H, N, M):
            raise ConfigError(
                f'target {tuple(target.shape)} does not fit query {tuple(query.shape)}: expected '
                f'{(B, H, N, M)}'
            )
        target = GivenMaps(target)
    check_bias('bias', bias, (B, H, N, M))
    factor = softmax_factor(scale, temperature)
    core = choose(_tile_loss, compiled)
    bias = scaled(bias, temperature)
    return _AttentionLoss.apply(query, key, bias, mask, target, factor, distance, core)


def _kl(logits: Tensor, target: Tensor, bias: Tensor | None, ignored: Tensor | None):
    """Sum of the KL over all rows, and its gradient of the logits, which are overwritten."""
    log_p = logits.log_softmax(-1)
    tiny = torch.finfo(log_p.dtype).tiny
    if bias is not None:
        # Keys may be at -inf, and 0 * -inf would be NaN.
        log_p = log_p.clamp(min=torch.finfo(log_p.dtype).min)
    log_ratio = target.clamp(min=tiny).log_().sub_(log_p)
    loss = log_ratio.mul_(target).sum()
    return loss, log_p.mul_(LOG2_E).exp2_().sub_(target)


def _mse(logits: Tensor, target: Tensor, bias: Tensor | None, ignored: Tensor | None):
    """Sum of the squared error over all rows, and its gradient of the logits."""
    maps = logits.softmax(-1)
    error = maps - target
    if ignored is not None:
        error.masked_fill_(ignored, 0)
    loss = error.square().sum()
    slope = (maps * error).sum(-1, keepdim=True)
    return loss, error.sub_(slope).mul_(maps).mul_(2)


def _tile_loss(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    visible: Tensor | None,
    ignored: Tensor | None,
    factor: float,
    distance: Callable[..., tuple[Tensor, Tensor]],
    target: Callable[..., Tensor],
    arguments: tuple,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum of a distance over the counted rows, its gradients of query, key and the logits."""
    query, key = dense_heads(query), dense_heads(key)
    wanted = target(*arguments)
    logits = attention_logits(query, key, factor, bias, visible, ignored)
    wanted = wanted.to(logits.dtype)
    if ignored is not None:
        wanted = wanted.masked_fill(ignored, 0)
    loss, residual = distance(logits, wanted, bias, ignored)
    if ignored is not None:
        residual.masked_fill_(ignored, 0)
    grad_query = product(residual, key).mul_(factor)
    grad_key = product(residual.mT, query).mul_(factor)
    return loss, grad_query, grad_key, residual


class StoredGradients(torch.autograd.Function):
    """Base of losses whose gradients are known as soon as the loss is.

    ``forward`` saves the gradients of its first inputs (or None) of the sum over rows, and sets
    ``ctx.rows`` to what they are to be divided by.
    """

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss):
        # Applied here, after the loss scale: stored fp16 gradients must not underflow.
        factor = grad_loss / ctx.rows
        grads = [None if g is None else (widen(g) * factor).to(g.dtype) for g in ctx.saved_tensors]
        return *grads, *[None] * (len(ctx.needs_input_grad) - len(grads))


class _AttentionLoss(StoredGradients):
    @staticmethod
    def forward(ctx, query, key, bias, mask, target, factor, distance, core):
        B, H, N, _ = query.shape
        M, device = key.shape[2], query.device
        sums = torch.promote_types(query.dtype, torch.float32)
        total = torch.zeros((), dtype=sums, device=device)
        grad_query, grad_key = torch.empty_like(query), torch.empty_like(key)
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        ignored = _either(ignored_queries(bias, mask, B, N, M, device), target.ignored, B)
        sizes, masks = target.sizes, (mask, target.mask)
        whole = is_whole(N, M, sum(sizes), masks, device.type)
        samples = batch_chunks(B, H * N * M, device.type) if whole else each_of(B)
        with torch.autocast(device.type, enabled=False):
            for batch in samples:
                for heads, parts in blocks(sizes, N, M, masks, device.type):
                    tiles = target.ready(batch, heads, parts)
                    # Over blocks, the gradient of the keys adds up; not in half precision.
                    of_keys: Any = None
                    if not whole:
                        of_keys = torch.zeros_like(key[batch, heads], dtype=sums)
                    for rows, keys in parts:
                        tile = Tile(batch, heads, rows, keys)
                        loss, grad_query[batch, heads, rows], of_tile, residual = core(
                            query[batch, heads, rows],
                            key[batch, heads, keys],
                            tile.of(bias, B),
                            mask.visible_end(batch, rows, keys, device),
                            tile.of_rows(ignored, B),
                            factor,
                            distance,
                            tiles.function,
                            tiles.arguments(tile),
                        )
                        total += loss
                        if whole:
                            of_keys = of_tile
                        else:
                            of_keys[:, :, keys] += of_tile
                        if grad_bias is not None:
                            _add_to_bias(grad_bias, residual, B, tile)
                    grad_key[batch, heads] = of_keys
        ctx.save_for_backward(grad_query, grad_key, grad_bias)
        ctx.rows = B * N if ignored is None else _num_rows(~ignored, B * N)
        return total / ctx.rows


def _either(one: Tensor | None, other: Tensor | None, batch: int) -> Tensor | None:
    """Rows (b, h, n, 1) that one or the other ignores."""
    if one is None:
        return other
    if other is None:
        return one
    if one.dim() == other.dim() == 4:
        every = slice(0, batch)
        return batch_slice(one, batch, every) | batch_slice(other, batch, every)
    return one | other


def _add_to_bias(grad: Tensor, residual: Tensor, batch: int, tile: Tile) -> None:
    """Add gradients of the logits of a tile to the gradient of a bias."""
    part = tile_of(grad, tile.heads, tile.rows, tile.keys)
    if grad.dim() < 4 or len(grad) == 1:
        part += residual.sum_to_size(part.shape)
    else:
        index = torch.arange(*tile.batch.indices(batch), device=grad.device) % len(grad)
        added = residual.sum_to_size(len(index), *part.shape[1:])
        part.index_add_(0, index, added.to(grad.dtype))


def _num_rows(counted: Tensor, rows: int) -> Tensor:
    """How many of ``rows`` rows count."""
    return (counted.sum() * (rows / counted.numel())).clamp(min=1)
