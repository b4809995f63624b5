"""Merging in one currency: a weight for each teacher head and sample, within groups of heads.

A merged map is the sum of ``w_i A_i`` over the heads of its group. How a group is weighed is a
function ``weigh(outputs, gram) -> weights``, of shapes (B, k - 1, N, k, D), (k * D, k * D) and
(B, k). What maps make of the values, ``A_i V_j``, is given by its difference from what the first
map makes, ``outputs[:, i - 1, :, j] = (A_i - A_1) V_j``: only differences have a part in weights
that sum to 1, and taken between maps they do not cancel in half precision.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.functional.attention import product, widen
from shd_vit.functional.order import group_sizes, head_groups, merge_neighbours, merge_passes
from shd_vit.functional.squeeze import pair_weight, squeeze_by_gram

Weigh = Callable[..., Tensor]


def weigh_linear(outputs_BiNkD: Tensor, gram: Tensor) -> Tensor:
    """The weights by which :func:`squeeze_heads` merges a group: products of alphas, (B, k)."""
    width = outputs_BiNkD.shape[-1]

    def alpha(weights_Bk: Tensor, first: slice, second: slice) -> Tensor:
        signed = torch.cat([weights_Bk[:, first], -weights_Bk[:, second]], dim=1)
        # The first map of the group has no difference from itself.
        of_first = 1 if first.start == 0 else 0
        members = slice(first.start + of_first - 1, second.stop - 1)
        both = slice(first.start, second.stop)
        outputs = outputs_BiNkD[:, members, :, both]
        delta = torch.einsum('bi,binkd->bnkd', signed[:, of_first:], outputs).flatten(-2)
        columns = columns_of(both, width)
        left = (first.stop - first.start) * width
        return pair_weight(delta, gram[columns, columns], left).clamp(0, 1)

    return _down_the_tree(outputs_BiNkD, alpha)


def weigh_constant(outputs_BiNkD: Tensor, gram: Tensor | None) -> Tensor:
    """Weights (B, k) of pair after pair merged by halves (the paper's Table 8)."""
    half = outputs_BiNkD.new_full((len(outputs_BiNkD),), 0.5)
    return _down_the_tree(outputs_BiNkD, lambda *pair: half)


def _down_the_tree(outputs_BiNkD: Tensor, alpha: Callable[..., Tensor]) -> Tensor:
    """Weights (B, k) of progressive merging; ``alpha(weights, first, second)`` is a pair's (B,)."""
    B, _, _, k, _ = outputs_BiNkD.shape
    weights = outputs_BiNkD.new_ones(B, k)
    groups = [slice(i, i + 1) for i in range(k)]
    for merges in merge_passes(k, 1):
        for first, second in zip(groups[: 2 * merges : 2], groups[1 : 2 * merges : 2], strict=True):
            share = alpha(weights, first, second)[:, None]
            parts = weights[:, first] * share, weights[:, second] * (1 - share)
            rest = weights[:, : first.start], weights[:, second.stop :]
            weights = torch.cat([rest[0], *parts, rest[1]], dim=1)
        groups = merge_neighbours(groups, merges, lambda a, b: slice(a.start, b.stop))
    return weights


def head_outputs(maps_BkNM: Tensor, value_BkMD: Tensor | None) -> Tensor:
    """What the maps of a group make of the values of each, less what the first map does.

    Returns:
        (B, k - 1, N, k, D), in float32 at least; without values (B, k - 1, 0, k, 0).
    """
    B, k, _, M = maps_BkNM.shape
    if value_BkMD is None:
        return maps_BkNM.new_empty(B, k - 1, 0, k, 0)
    D = value_BkMD.shape[-1]
    stacked = value_BkMD.transpose(1, 2).reshape(B, 1, M, k * D).expand(B, k - 1, M, k * D)
    differences = maps_BkNM[:, 1:] - maps_BkNM[:, :1]
    return product(differences, stacked).unflatten(-1, (k, D))


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
            value, columns = value_BHND[:, heads], columns_of(heads, value_BHND.shape[-1])
            block = gram[columns, columns]
        weights.append(group_weights(weigh, head_outputs(maps, value), block))
    return torch.cat(weights, dim=1)


def group_weights(weigh: Weigh, outputs_BiNkD: Tensor, gram: Tensor | None) -> Tensor:
    """What ``weigh`` gives a group, (B, k).

    Raises:
        ConfigError: If it gives anything else.
    """
    weights = weigh(outputs_BiNkD, gram)
    expected = len(outputs_BiNkD), outputs_BiNkD.shape[3]
    if weights.shape != expected:
        name = getattr(weigh, '__name__', weigh)
        raise ConfigError(
            f'{name} gives weights {tuple(weights.shape)}: expected (B, k) {expected}'
        )
    return weights


def columns_of(heads: slice, width: int) -> slice:
    """The columns of stacked heads that are these heads'."""
    return slice(heads.start * width, heads.stop * width)


def mix_heads(maps_BHNM: Tensor, weights_BH: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The merged maps of the groups, (B, G, N, M)."""
    mixed, start = [], 0
    for size, run in itertools.groupby(sizes):
        heads = slice(start, start + size * len(list(run)))
        maps = maps_BHNM[:, heads].unflatten(1, (-1, size))
        if size > 1:  # alone, a head weighs 1
            weights = weights_BH[:, heads].unflatten(1, (-1, size))[..., None, None].to(maps.dtype)
            merged = maps[:, :, 0] * weights[:, :, 0]
            for i in range(1, size):
                merged = merged.addcmul_(maps[:, :, i], weights[:, :, i])
        mixed.append(merged if size > 1 else maps[:, :, 0])
        start = heads.stop
    return torch.cat(mixed, dim=1) if len(mixed) > 1 else mixed[0]


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
