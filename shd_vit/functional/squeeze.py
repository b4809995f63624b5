"""Squeezing heads: merge attention maps in closed form, with no parameters (arXiv 2502.07436)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shd_vit.functional.attention import product, widen


class SqueezedHeads(NamedTuple):
    """Squeezed maps and the weights that made them.

    Attributes:
        maps: (B, num_heads, N, N), rows sum to 1.
        alphas: One (B, merges) tensor a pass, clamped to [0, 1]; weight of a pair's first head.
        raw_alphas: The same before clamping.
    """

    maps: Tensor
    alphas: tuple[Tensor, ...]
    raw_alphas: tuple[Tensor, ...]


def squeeze_heads(
    maps: Tensor, value: Tensor, out_proj: Tensor, num_heads: int, gram: Tensor | None = None
) -> SqueezedHeads:
    """Merge the maps of Ht heads into ``num_heads`` (Eqs. 5 to 9, progressive merging).

    Heads 1 and 2 become ``a A_1 + (1 - a) A_2``. With X_i = V_i W_i^O, S = X_1 + X_2 and
    Delta = A_1 - A_2, the weight that minimises Eq. 6 is
    ``a = <Delta S, Delta X_1> / ||Delta S||^2``, one a sample and pair. (The N that Eq. 7 prints
    does not follow from Eq. 6: its second term has the wrong head. This follows Eq. 6.)

    Each pass merges pairs (1, 2), (3, 4), ... from the front, ``min(h // 2, h - num_heads)`` of
    them, and carries the rest over, so that halving never passes the target: 16 -> 8 -> 6. The X
    of a merged head is the sum of its members'.

    X itself (N x E) is never formed: Delta X = (Delta V) W^T, so both inner products come from one
    product U = Delta [V_1 | V_2] and the Gram matrices of U and of the two W^O slices.

    Args:
        maps: (B, Ht, N, N), rows sum to 1; rows of 0 have no part in the weights.
        value: (B, Ht, N, D), the values those maps weigh.
        out_proj: (E, Ht * D), weight of the output projection (without its bias).
        num_heads: Heads to leave, from 1 to Ht.
        gram: :func:`gram_matrix` of ``out_proj``, if it is at hand.

    Returns:
        Maps in float32 at least, with the weights of each pass.

    Raises:
        ValueError: If ``num_heads`` is not in 1..Ht, or a shape does not fit.
    """
    B, Ht, N, D = value.shape
    if not 1 <= num_heads <= Ht:
        raise ValueError(f'num_heads={num_heads} must be between 1 and the {Ht} heads of the maps')
    if maps.shape != (B, Ht, N, N) or out_proj.shape[1:] != (Ht * D,):
        raise ValueError(
            f'maps {tuple(maps.shape)} and out_proj {tuple(out_proj.shape)} do not fit '
            f'value {tuple(value.shape)}: expected {(B, Ht, N, N)} and (E, {Ht * D})'
        )
    with torch.autocast(value.device.type, enabled=False):
        maps = widen(maps)
        # Merging only ever joins neighbours, so a merged head owns a run of columns.
        value = value.transpose(1, 2).reshape(B, N, Ht * D)
        if gram is None and num_heads < Ht:
            gram = gram_matrix(out_proj)
        widths = [D] * Ht
        alphas, raw_alphas = [], []
        while len(widths) > num_heads:
            merges = merges_of_pass(len(widths), num_heads)
            paired = 2 * merges
            first, second = maps[:, 0:paired:2], maps[:, 1:paired:2]
            delta = first - second
            assert gram is not None  # there is something to merge
            raw = _merge_weights(delta, value, gram, widths[:paired])
            alpha = raw.clamp(0, 1)
            merged = torch.addcmul(second, delta, alpha[..., None, None])
            rest = maps[:, paired:]
            maps = torch.cat([merged, rest], dim=1) if rest.shape[1] else merged
            widths = merge_neighbours(widths, merges)
            alphas.append(alpha)
            raw_alphas.append(raw)
    return SqueezedHeads(maps, tuple(alphas), tuple(raw_alphas))


def average_heads(maps: Tensor, num_heads: int) -> Tensor:
    """Merge as :func:`squeeze_heads` does, with every weight 0.5 (the paper's Table 8).

    Args:
        maps: (B, Ht, N, N).
        num_heads: Heads to leave, from 1 to Ht.

    Returns:
        (B, num_heads, N, N), in float32 at least.
    """
    maps = widen(maps)
    while maps.shape[1] > num_heads:
        paired = 2 * merges_of_pass(maps.shape[1], num_heads)
        merged = maps[:, :paired].unflatten(1, (-1, 2)).mean(2)
        maps = torch.cat([merged, maps[:, paired:]], dim=1)
    return maps


def merges_of_pass(heads: int, num_heads: int) -> int:
    """Pairs that the next pass of progressive merging joins, on the way to ``num_heads``."""
    return min(heads // 2, heads - num_heads)


def merge_neighbours(items: list, merges: int) -> list:
    """One pass of progressive merging, by ``+``: the first ``merges`` pairs joined."""
    paired = 2 * merges
    return [items[i] + items[i + 1] for i in range(0, paired, 2)] + items[paired:]


def group_sizes(heads: int, num_heads: int) -> list[int]:
    """How many neighbouring heads progressive merging joins into each of ``num_heads``."""
    sizes = [1] * heads
    while len(sizes) > num_heads:
        sizes = merge_neighbours(sizes, merges_of_pass(len(sizes), num_heads))
    return sizes


def gram_matrix(out_proj: Tensor) -> Tensor:
    """``W^T W`` of the output projection (E, Ht * D): (Ht * D, Ht * D) in float32 at least."""
    with torch.autocast(out_proj.device.type, enabled=False):
        weight = widen(out_proj)
        return weight.T @ weight


def _merge_weights(delta: Tensor, value: Tensor, gram: Tensor, widths: list[int]) -> Tensor:
    """Unclamped weights (B, merges) of the first heads of neighbouring pairs.

    ``delta`` is (B, merges, N, N). Heads own columns of ``value`` (B, N, Ht * D), and rows and
    columns of ``gram``, of the given ``widths``.
    """
    pairs = list(zip(widths[0::2], widths[1::2], strict=True))
    weights, start, pair = [], 0, 0
    while pair < len(pairs):
        left, right = pairs[pair]
        count, width = 1, left + right
        while pairs[pair : pair + count + 1] == [(left, right)] * (count + 1):
            count += 1  # pairs of equal widths go together
        columns = slice(start, start + count * width)
        u = product(
            delta[:, pair : pair + count],
            value[..., columns].unflatten(-1, (count, width)).transpose(1, 2),
        )
        if value.dtype.itemsize == 2:
            u = u.bfloat16()  # has the range of float32
        blocks = gram[columns, columns].view(count, width, count, width)
        blocks = blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0)
        # <Delta X_i, Delta X_j> summed over columns is <U_i^T U_j, W_i^T W_j>.
        inner = product(u.mT, u) * blocks
        norm = inner.sum((-2, -1))
        toward_first = inner[..., :left, :].sum((-2, -1))
        # Equal heads: every weight gives the same map.
        weights.append(torch.where(norm > 0, toward_first / norm, 0.5))
        start, pair = columns.stop, pair + count
    return torch.cat(weights, dim=1)
