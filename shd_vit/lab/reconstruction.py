"""How much of what attention heads compute is kept when they share one map (paper, section 4.1).

A group of heads that shares the map A~ computes A~ S in place of sum_i A_i X_i, where X_i is the
value of head i after its slice of the output projection and S = sum_i X_i.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from shd_vit.functional import group_sizes
from shd_vit.taps import AttentionTap

TOLERANCE = 1e-6  # of the squared norm of the target, in which optima are certain
STEPS = 20_000


def groups(
    maps: Tensor, value: Tensor, out_proj: Tensor, num_heads: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """S and the target sum_i A_i X_i of each group of merged heads: (B, N, E) twice, in float64.

    Args:
        maps: (B, Ht, N, N).
        value: (B, Ht, N, D).
        out_proj: (E, Ht * D).
        num_heads: Groups.
    """
    maps, value, out_proj = maps.double(), value.double(), out_proj.double()
    start = 0
    for size in group_sizes(maps.shape[1], num_heads):
        heads = slice(start, start + size)
        weight = out_proj.unflatten(1, (maps.shape[1], -1))[:, heads]
        values = value[:, heads]
        total = torch.einsum('bhnd,ehd->bne', values, weight)
        yield total, torch.einsum('bhnm,bhmd,ehd->bne', maps[:, heads], values, weight)
        start += size


def squared_errors(shared: Tensor, tap: AttentionTap, maps: Tensor) -> Tensor:
    """||A~ S - sum_i A_i X_i||^2 and ||sum_i A_i X_i||^2, summed over groups: (2, B).

    Args:
        shared: (B, num_heads, N, N), one map a group.
        tap: Of the teacher.
        maps: (B, Ht, N, N), the teacher's.
    """
    sums = torch.zeros(2, len(maps), dtype=torch.float64, device=maps.device)
    made = groups(maps, tap.v, tap.out_proj, shared.shape[1])
    for a, (total, target) in zip(shared.double().unbind(1), made, strict=True):
        pair = torch.stack([a @ total - target, target])
        sums = sums + pair.square().sum((-2, -1))
    return sums


def unconstrained_maps(tap: AttentionTap, maps: Tensor, num_heads: int) -> Tensor:
    """The matrices that lose least, by pseudo-inverse: (B, num_heads, N, N).

    Their rows are no distributions. They lose nothing if there are as many tokens as a group of k
    heads has values, k D; with fewer, A~ S cannot leave the span of S's rows.
    """
    made = groups(maps, tap.v, tap.out_proj, num_heads)
    return torch.stack([target @ torch.linalg.pinv(total) for total, target in made], dim=1)


def constrained_maps(tap: AttentionTap, maps: Tensor, start: Tensor) -> Tensor:
    """The maps that lose least, of all whose rows are distributions: (B, num_heads, N, N).

    Each row is a least-squares problem on the simplex, here solved by accelerated projected
    gradient descent with restarts, until the Frank-Wolfe gap says that what is lost is within
    ``TOLERANCE`` of the least. For analysis: it takes thousands of products of all maps.

    Args:
        tap: Of the teacher.
        maps: (B, Ht, N, N), the teacher's.
        start: (B, num_heads, N, N), where to start from.

    Raises:
        RuntimeError: If ``STEPS`` were not enough.
    """
    made = groups(maps, tap.v, tap.out_proj, start.shape[1])
    best = [
        _on_simplex(total, target, a.double())
        for a, (total, target) in zip(start.unbind(1), made, strict=True)
    ]
    return torch.stack(best, dim=1)


def _on_simplex(total: Tensor, target: Tensor, start: Tensor) -> Tensor:
    """argmin ||A S - T||^2 over A (B, N, N) with rows in the simplex."""
    gram, cross = total @ total.mT, target @ total.mT
    step = 1 / torch.linalg.matrix_norm(gram, 2)[:, None, None]
    limit = TOLERANCE * target.square().sum((-2, -1))
    a = ahead = start
    momentum = torch.ones(len(a), a.shape[1], 1, dtype=a.dtype, device=a.device)
    for number in range(STEPS):
        new = project_on_simplex(ahead - step * (ahead @ gram - cross))
        # A row whose momentum points uphill starts anew (O'Donoghue and Candes 2015).
        uphill = ((ahead - new) * (new - a)).sum(-1, keepdim=True) > 0
        grown = torch.where(uphill, 1.0, (1 + (1 + 4 * momentum**2).sqrt()) / 2)
        ahead = torch.where(uphill, new, new + (momentum - 1) / grown * (new - a))
        a, momentum = new, grown
        if number % 50 == 49:
            slope = 2 * (a @ gram - cross)
            gap = ((a * slope).sum(-1) - slope.amin(-1)).sum(-1)
            if (gap <= limit).all():
                return a
    raise RuntimeError(f'the constrained optimum was not found in {STEPS} steps')


def project_on_simplex(rows: Tensor) -> Tensor:
    """The nearest distributions to rows (..., n), by sorting (Held et al. 1974)."""
    sorted_rows = rows.sort(descending=True).values
    ranks = torch.arange(1, rows.shape[-1] + 1, device=rows.device, dtype=rows.dtype)
    excess = (sorted_rows.cumsum(-1) - 1) / ranks
    count = (sorted_rows > excess).sum(-1, keepdim=True)
    return (rows - excess.gather(-1, count - 1)).clamp(min=0)
