"""KL between attention maps that keeps no N x N map for backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from shd_vit.functional.attention import attention_logits, batch_slice, widen

# Elements of a temporary (chunk, H, N, N) map, whatever the batch size: 4 MiB in float32, so that
# the few maps in flight stay in the last-level cache of a CPU.
CHUNK_ELEMENTS = 2**20


def attention_kl(
    query: Tensor,
    key: Tensor,
    target: Tensor | Callable[[slice], Tensor],
    scale: float,
    temperature: float = 1.0,
    bias: Tensor | None = None,
) -> Tensor:
    """KL(target || softmax((Q K^T * scale + bias) / T_a)), the L_KL of Eq. 11.

    Summed over keys and heads, averaged over batch and query rows. Only the gradients of query and
    key are kept for backward, not the maps: the gradient of a row's KL with respect to its logits
    is (softmax - target), so both are known as soon as the loss is. The batch is taken in chunks
    that bound all temporary maps. Float32 inside whatever autocast says; differentiable once.

    Args:
        query: (B, H, N, D), the student's.
        key: (B, H, N, D), the student's.
        target: (B, H, N, N), a constant; rows sum to 1. Zeros cost nothing (0 log 0 = 0). Or a
            function from a slice of the batch to that part of it, called once a chunk, so that
            the whole need never exist.
        scale: Factor on the dot products, usually D^-0.5.
        temperature: T_a. There is no factor T_a^2.
        bias: A constant, additive, broadcastable to (B, H, N, N).

    Returns:
        Scalar in float32 (float64 for float64 input).

    Raises:
        ValueError: If shapes differ, or if target or bias asks for a gradient.
    """
    if key.shape != query.shape:
        raise ValueError(f'key {tuple(key.shape)} does not fit query {tuple(query.shape)}')
    if isinstance(target, Tensor):
        _refuse_gradient('target', target)
        maps, target = target, lambda chunk: maps[chunk]
    _refuse_gradient('bias', bias)
    return _AttentionKL.apply(query, key, target, scale, temperature, bias)


def _refuse_gradient(name: str, constant: Tensor | None) -> None:
    if constant is not None and constant.requires_grad and torch.is_grad_enabled():
        raise ValueError(f'{name} is a constant of attention_kl: detach it')


class _AttentionKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, target, scale, temperature, bias):
        B, H, N, _ = query.shape
        dtype = torch.promote_types(query.dtype, torch.float32)
        limits = torch.finfo(dtype)
        total = torch.zeros((), dtype=dtype, device=query.device)
        grad_query, grad_key = torch.empty_like(query), torch.empty_like(key)
        step = max(1, CHUNK_ELEMENTS // (H * N * N))
        with torch.autocast(query.device.type, enabled=False):
            for start in range(0, B, step):
                chunk = slice(start, start + step)
                q, k = (widen(x[chunk]).contiguous() for x in (query, key))
                t = target(chunk).to(dtype)
                if t.shape != (len(q), H, N, N):
                    raise ValueError(
                        f'target {tuple(t.shape)} does not fit query {tuple(q.shape)}: expected '
                        f'{(len(q), H, N, N)}'
                    )
                b = batch_slice(bias, B, chunk)
                log_p = attention_logits(q, k, scale, temperature, b).log_softmax(-1)
                if b is not None:
                    log_p.clamp_(min=limits.min)  # masked keys: 0 * -inf would be NaN
                total += t.clamp(min=limits.tiny).log_().sub_(log_p).mul_(t).sum()
                residual = log_p.exp_().sub_(t)
                grad_query[chunk] = residual @ (k * (scale / temperature))
                grad_key[chunk] = residual.transpose(-2, -1) @ (q * (scale / temperature))
        ctx.save_for_backward(grad_query, grad_key)
        # Applied in backward, after the loss scale: stored fp16 gradients must not underflow.
        ctx.rows = B * N
        return total / ctx.rows

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss):
        grads = ((widen(g) * (grad_loss / ctx.rows)).to(g.dtype) for g in ctx.saved_tensors)
        return *grads, None, None, None, None
