"""The order in which heads merge: pass after pass, neighbours pair up until few enough are left."""

from __future__ import annotations

import operator
from collections.abc import Callable


def merge_passes(heads: int, num_heads: int) -> list[int]:
    """How many pairs each pass of progressive merging joins, from ``heads`` to ``num_heads``.

    A pass joins (1, 2), (3, 4), ... from the front and carries the rest over; never more pairs than
    are needed, so that halving does not pass the target: 16 -> 8 -> 6 is [8, 2].
    """
    passes = []
    while heads > num_heads:
        merges = min(heads // 2, heads - num_heads)
        passes.append(merges)
        heads -= merges
    return passes


def merge_neighbours(items: list, merges: int, join: Callable = operator.add) -> list:
    """One pass: the first ``merges`` pairs of neighbours joined, the rest carried over."""
    paired = 2 * merges
    return [join(items[i], items[i + 1]) for i in range(0, paired, 2)] + items[paired:]


def group_sizes(heads: int, num_heads: int) -> tuple[int, ...]:
    """How many neighbouring heads progressive merging joins into each of ``num_heads``.

    Within a group of k heads the order of merges is that of ``merge_passes(k, 1)``.
    """
    sizes = [1] * heads
    for merges in merge_passes(heads, num_heads):
        sizes = merge_neighbours(sizes, merges)
    return tuple(sizes)


def head_groups(sizes: tuple[int, ...]) -> list[slice]:
    """The teacher's heads of each group, of neighbours."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
