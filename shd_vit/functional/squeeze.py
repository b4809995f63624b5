"""Squeezing heads: merge attention maps in closed form, with no parameters (arXiv 2502.07436)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shd_vit.functional.attention import product, widen
from shd_vit.functional.order import merge_neighbours, merge_passes


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

    Passes are those of :func:`merge_passes`; the X of a merged head is the sum of its members'.

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
    if gram is None and num_heads < Ht:
        gram = gram_matrix(out_proj)
    return squeeze_by_gram(maps, value, gram, num_heads)


def squeeze_by_gram(
    maps_BHNN: Tensor, value_BHND: Tensor, gram: Tensor | None, num_heads: int
) -> SqueezedHeads:
    """:func:`squeeze_heads` from the Gram matrix; None where nothing is to merge."""
    B, H, N, D = value_BHND.shape
    with torch.autocast(value_BHND.device.type, enabled=False):
        maps = widen(maps_BHNN)
        # Merging only ever joins neighbours, so a merged head owns a run of columns.
        value_BNF = value_BHND.transpose(1, 2).reshape(B, N, H * D)
        widths = [D] * H
        alphas, raw_alphas = [], []
        for merges in merge_passes(H, num_heads):
            paired = 2 * merges
            first, second = maps[:, 0:paired:2], maps[:, 1:paired:2]
            delta = first - second
            assert gram is not None  # there is something to merge
            raw = _merge_weights(delta, value_BNF, gram, widths[:paired])
            alpha = raw.clamp(0, 1)
            merged = torch.addcmul(second, delta, alpha[..., None, None])
            rest = maps[:, paired:]
            maps = torch.cat([merged, rest], dim=1) if rest.shape[1] else merged
            widths = merge_neighbours(widths, merges)
            alphas.append(alpha)
            raw_alphas.append(raw)
    return SqueezedHeads(maps, tuple(alphas), tuple(raw_alphas))


def gram_matrix(out_proj: Tensor) -> Tensor:
    """``W^T W`` of the output projection (E, Ht * D): (Ht * D, Ht * D) in float32 at least."""
    with torch.autocast(out_proj.device.type, enabled=False):
        weight = widen(out_proj)
        return weight.T @ weight


def pair_weight(u: Tensor, gram: Tensor, left: int) -> Tensor:
    """The unclamped weight of the first head of a pair, (...), of Eq. 6.

    Args:
        u: ``Delta [V_1 | V_2]``, (..., N, F).
        gram: Of the F columns of the output projection, (..., F, F).
        left: How many of them are the first head's.
    """
    # <Delta X_i, Delta X_j> summed over columns is <U_i^T U_j, W_i^T W_j>.
    inner = product(u.mT, u) * gram
    norm = inner.sum((-2, -1))
    toward_first = inner[..., :left, :].sum((-2, -1))
    # Equal heads: every weight gives the same map. What is no number stays none.
    return torch.where(norm <= 0, 0.5, toward_first / norm)


def _merge_weights(
    delta_BPNN: Tensor, value_BNF: Tensor, gram_FF: Tensor, widths: list[int]
) -> Tensor:
    """Unclamped weights (B, P) of the first heads of P pairs of neighbours.

    Heads own columns of ``value``, and rows and columns of ``gram``, of the given ``widths``.
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
            delta_BPNN[:, pair : pair + count],
            value_BNF[..., columns].unflatten(-1, (count, width)).transpose(1, 2),
        )
        if value_BNF.dtype.itemsize == 2:
            u = u.bfloat16()  # has the range of float32
        blocks = gram_FF[columns, columns].view(count, width, count, width)
        weights.append(pair_weight(u, blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0), left))
        start, pair = columns.stop, pair + count
    return torch.cat(weights, dim=1)
