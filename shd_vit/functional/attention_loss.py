"""Distances between attention maps that keep no N x N map for backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from shd_vit.functional.attention import (
    attention_logits,
    batch_slice,
    counted_rows,
    ignored_rows,
    product,
    softmax_factor,
    widen,
)
from shd_vit.functional.compiler import choose

# Elements of a temporary (chunk, H, N, N) map, whatever the batch size. On a CPU 2 MiB in float32,
# so that the few maps in flight stay in cache; elsewhere 128 MiB, so that launches are few.
CHUNK_ELEMENTS = {'cpu': 2**19, 'default': 2**25}


class LazyMaps(NamedTuple):
    """Maps (B, H, N, N) that are made where they are used, a chunk of the batch at a time.

    Attributes:
        function: Of the chunk of every tensor, then of the constants.
        tensors: With the batch first, or as a bias is (:func:`attention_kl`); or None.
        constants: Whatever else the function takes.
    """

    function: Callable[..., Tensor]
    tensors: tuple[Tensor | None, ...]
    constants: tuple = ()


def attention_kl(
    query: Tensor,
    key: Tensor,
    target: Tensor | LazyMaps,
    scale: float,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    compiled: bool = False,
) -> Tensor:
    """KL(target || softmax((Q K^T * scale + bias) / T_a)), the L_KL of Eq. 11.

    Summed over keys and heads, averaged over batch and query rows. Only the gradients of query and
    key are kept for backward, not the maps: the gradient of a row's KL with respect to its logits
    is (softmax - target), so both are known as soon as the loss is. The batch is taken in chunks
    that bound all temporary maps. Sums are in float32 whatever autocast says; differentiable once.

    Args:
        query: (B, H, N, D), the student's.
        key: (B, H, N, D), the student's.
        target: (B, H, N, N), a constant; rows sum to 1. Zeros cost nothing (0 log 0 = 0). Or how
            to make it, so that the whole need never exist.
        scale: Factor on the dot products, usually D^-0.5.
        temperature: T_a. There is no factor T_a^2.
        bias: Additive, broadcastable to (B, H, N, N), or (W, H, N, N) for a batch of B = B' W
            windows. A key at -inf has weight 0; rows that do not count (:func:`counted_rows`) have
            no part in the mean. May ask for a gradient.
        compiled: Run what is done to a chunk through :func:`torch.compile`.

    Returns:
        Scalar in float32 (float64 for float64 input).

    Raises:
        ValueError: If shapes differ, or if target asks for a gradient.
    """
    return _attention_loss(_kl, query, key, target, scale, temperature, bias, compiled)


def attention_mse(
    query: Tensor,
    key: Tensor,
    target: Tensor | LazyMaps,
    scale: float,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    compiled: bool = False,
) -> Tensor:
    """``||target - softmax((Q K^T * scale + bias) / T_a)||^2``, the MSE of the paper's Table 10.

    Reduced as :func:`attention_kl`: summed over keys and heads, averaged over batch and query rows.
    Arguments, memory and errors are the same, too.
    """
    return _attention_loss(_mse, query, key, target, scale, temperature, bias, compiled)


def _attention_loss(distance, query, key, target, scale, temperature, bias, compiled) -> Tensor:
    if key.shape != query.shape:
        raise ValueError(f'key {tuple(key.shape)} does not fit query {tuple(query.shape)}')
    if isinstance(target, Tensor):
        if target.requires_grad and torch.is_grad_enabled():
            raise ValueError('target is a constant of an attention loss: detach it')
        target = LazyMaps(_given, (target,))
    factor = softmax_factor(scale, temperature)
    if bias is not None:
        bias = torch.atleast_2d(bias) / temperature
    core = choose(_chunk_loss, compiled)
    return _AttentionLoss.apply(query, key, bias, target, factor, distance, core)


def _given(maps: Tensor) -> Tensor:
    return maps


def _kl(logits: Tensor, target: Tensor, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum of the KL over all rows, and its gradient of the logits, which are overwritten."""
    log_p = logits.log_softmax(-1)
    tiny = torch.finfo(log_p.dtype).tiny
    if ignored is not None:
        # Masked keys are -inf, and 0 * -inf would be NaN.
        log_p = log_p.clamp(min=torch.finfo(log_p.dtype).min)
    log_ratio = target.clamp(min=tiny).log_().sub_(log_p)
    loss = log_ratio.mul_(target).sum()
    return loss, log_p.exp_().sub_(target)


def _mse(logits: Tensor, target: Tensor, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum of the squared error over all rows, and its gradient of the logits."""
    maps = logits.softmax(-1)
    error = maps - target
    if ignored is not None:
        error.masked_fill_(ignored, 0)
    loss = error.square().sum()
    slope = (maps * error).sum(-1, keepdim=True)
    return loss, error.sub_(slope).mul_(maps).mul_(2)


def _chunk_loss(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    factor: float,
    distance: Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]],
    target: Callable[..., Tensor],
    arguments: tuple,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum of a distance over all counted rows, its gradients of query, key and the logits."""
    query, key = query.contiguous(), key.contiguous()
    wanted = target(*arguments)
    logits = attention_logits(query, key, factor, bias)
    if wanted.shape != logits.shape:
        raise ValueError(
            f'target {tuple(wanted.shape)} does not fit query {tuple(query.shape)}: expected '
            f'{tuple(logits.shape)}'
        )
    wanted = wanted.to(logits.dtype)
    ignored = None if bias is None else ignored_rows(bias)
    if ignored is not None:
        wanted = wanted.masked_fill(ignored, 0)
    loss, residual = distance(logits, wanted, ignored)
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
    def forward(ctx, query, key, bias, target, factor, distance, core):
        B, _, N, _ = query.shape
        total = torch.zeros(
            (), dtype=torch.promote_types(query.dtype, torch.float32), device=query.device
        )
        grad_query, grad_key = torch.empty_like(query), torch.empty_like(key)
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        with torch.autocast(query.device.type, enabled=False):
            for chunk in batch_chunks(query):
                tensors = (batch_slice(t, B, chunk) for t in target.tensors)
                loss, grad_query[chunk], grad_key[chunk], residual = core(
                    query[chunk],
                    key[chunk],
                    batch_slice(bias, B, chunk),
                    factor,
                    distance,
                    target.function,
                    (*tensors, *target.constants),
                )
                total += loss
                if grad_bias is not None:
                    _add_to_bias(grad_bias, residual, B, chunk)
        ctx.save_for_backward(grad_query, grad_key, grad_bias)
        ctx.rows = B * N if bias is None else _num_rows(bias, B * N)
        return total / ctx.rows


def _add_to_bias(grad: Tensor, residual: Tensor, batch: int, chunk: slice) -> None:
    """Add gradients of the logits (chunk, H, N, N) to the gradient of a bias."""
    if grad.dim() < 4 or len(grad) == 1:
        grad += residual.sum_to_size(grad.shape)
    else:
        index = torch.arange(*chunk.indices(batch), device=grad.device) % len(grad)
        grad.index_add_(0, index, residual.sum_to_size(len(index), *grad.shape[1:]).to(grad.dtype))


def _num_rows(bias: Tensor, rows: int) -> Tensor:
    """How many of ``rows`` rows count."""
    counted = counted_rows(bias)
    return (counted.sum() * (rows / counted.numel())).clamp(min=1)


def batch_chunks(query: Tensor) -> list[slice]:
    """Slices of the batch, as even as can be, that keep to CHUNK_ELEMENTS (or hold one sample)."""
    B, H, N, _ = query.shape
    limit = CHUNK_ELEMENTS.get(query.device.type, CHUNK_ELEMENTS['default'])
    chunks = -(-B // max(1, limit // (H * N * N)))
    size = max(1, -(-B // max(1, chunks)))
    return [slice(start, start + size) for start in range(0, B, size)]
