"""Merging in one currency: a weight for each teacher head and sample, within groups of heads.

A merged map is the sum of ``w_i A_i`` over the heads of its group. How a group is weighed is a
function ``weigh(outputs, gram) -> weights``, of shapes (B, k, N, k, D), (k * D, k * D) and (B, k),
where ``outputs[:, i, :, j]`` is what the map of head i makes of the values of head j, ``A_i V_j``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from shd_vit.functional.attention import product, widen
from shd_vit.functional.order import group_sizes, head_groups, merge_neighbours, merge_passes
from shd_vit.functional.squeeze import pair_weight, squeeze_by_gram

Weigh = Callable[..., Tensor]


def weigh_linear(outputs_BkNkD: Tensor, gram: Tensor) -> Tensor:
    """The weights by which :func:`squeeze_heads` merges a group: products of alphas, (B, k)."""
    width = outputs_BkNkD.shape[-1]

    def alpha(weights_Bk: Tensor, first: slice, second: slice) -> Tensor:
        both = slice(first.start, second.stop)
        sides = (
            torch.einsum('bi,binjd->bnjd', weights_Bk[:, part], outputs_BkNkD[:, part, :, both])
            for part in (first, second)
        )
        delta = torch.sub(*sides).flatten(-2)
        columns = slice(both.start * width, both.stop * width)
        left = (first.stop - first.start) * width
        return pair_weight(delta, gram[columns, columns], left).clamp(0, 1)

    return _down_the_tree(outputs_BkNkD, alpha)


def weigh_constant(outputs_BkNkD: Tensor, gram: Tensor | None) -> Tensor:
    """Weights (B, k) of pair after pair merged by halves (the paper's Table 8)."""
    half = outputs_BkNkD.new_full((len(outputs_BkNkD),), 0.5)
    return _down_the_tree(outputs_BkNkD, lambda *pair: half)


def _down_the_tree(outputs_BkNkD: Tensor, alpha: Callable[..., Tensor]) -> Tensor:
    """Weights (B, k) of progressive merging; ``alpha(weights, first, second)`` is a pair's (B,)."""
    B, k = outputs_BkNkD.shape[:2]
    weights = outputs_BkNkD.new_ones(B, k)
    groups = [slice(i, i + 1) for i in range(k)]
    for merges in merge_passes(k, 1):
        for first, second in zip(groups[: 2 * merges : 2], groups[1 : 2 * merges : 2], strict=True):
            share = alpha(weights, first, second)[:, None]
            parts = weights[:, first] * share, weights[:, second] * (1 - share)
            rest = weights[:, : first.start], weights[:, second.stop :]
            weights = torch.cat([rest[0], *parts, rest[1]], dim=1)
        groups = merge_neighbours(groups, merges, lambda a, b: slice(a.start, b.stop))
    return weights


def head_outputs(maps_BkNN: Tensor, value_BkND: Tensor | None) -> Tensor:
    """What each map of a group makes of the values of each: (B, k, N, k, D), in float32 at least.

    Without values there is nothing to make: (B, k, 0, k, 0).
    """
    B, k = maps_BkNN.shape[:2]
    if value_BkND is None:
        return maps_BkNN.new_empty(B, k, 0, k, 0)
    _, _, N, D = value_BkND.shape
    stacked = value_BkND.transpose(1, 2).reshape(B, 1, N, k * D)
    return product(maps_BkNN, stacked.expand(B, k, N, k * D)).unflatten(-1, (k, D))


def head_weights(
    maps_BHNN: Tensor,
    value_BHND: Tensor | None,
    gram: Tensor | None,
    sizes: tuple[int, ...],
    weigh: Weigh,
) -> Tensor:
    """The weights (B, H) of all heads, from their maps; they sum to 1 in each group.

    Args:
        maps_BHNN: The teacher's.
        value_BHND: Its values; None for what is weighed without.
        gram: :func:`gram_matrix` of its output projection, (H * D, H * D); None likewise.
        sizes: Of the groups, which neighbours form.
        weigh: Of one group.
    """
    weights = []
    for heads in head_groups(sizes):
        maps = maps_BHNN[:, heads]
        if heads.stop - heads.start == 1:
            weights.append(maps.new_ones(maps.shape[:2]))
            continue
        value, block = None, None
        if value_BHND is not None:
            assert gram is not None
            value, columns = value_BHND[:, heads], _columns(heads, value_BHND.shape[-1])
            block = gram[columns, columns]
        weights.append(weigh(head_outputs(maps, value), block))
    return torch.cat(weights, dim=1)


def _columns(heads: slice, width: int) -> slice:
    return slice(heads.start * width, heads.stop * width)


def mix_heads(maps_BHNN: Tensor, weights_BH: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The merged maps of the groups, (B, G, N, N)."""
    weighed = maps_BHNN * weights_BH[..., None, None]
    return torch.stack([weighed[:, heads].sum(1) for heads in head_groups(sizes)], dim=1)


def merge_maps(
    maps_BHNN: Tensor,
    value_BHND: Tensor | None,
    gram: Tensor | None,
    sizes: tuple[int, ...],
    weigh: Weigh = weigh_linear,
) -> Tensor:
    """Merge the maps of each group by the weights that ``weigh`` gives it.

    Arguments are those of :func:`head_weights`.

    Returns:
        (B, G, N, N), in float32 at least.
    """
    with torch.autocast(maps_BHNN.device.type, enabled=False):
        maps = widen(maps_BHNN)
        H = maps.shape[1]
        if len(sizes) == H:
            return maps
        if weigh is weigh_linear and sizes == group_sizes(H, len(sizes)):
            # Merges the maps on its way to the weights.
            assert value_BHND is not None
            return squeeze_by_gram(maps, value_BHND, gram, len(sizes)).maps
        return mix_heads(maps, head_weights(maps, value_BHND, gram, sizes, weigh), sizes)
