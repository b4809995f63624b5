"""Which teacher heads become which squeezed head, by name."""

from __future__ import annotations

from typing import NamedTuple

from shd_vit.functional import merge_neighbours, merge_passes


class Merged(NamedTuple):
    """A head of the teacher, or what several were merged into.

    Attributes:
        name: '3', '1+2' or '(1+2)+(3+4)'.
        heads: The teacher's heads in it, from 1.
    """

    name: str
    heads: tuple[int, ...]


def merged_heads(num_heads: int, target: int) -> tuple[list[list[Merged]], list[Merged]]:
    """The order in which :func:`shd_vit.squeeze_heads` merges.

    Args:
        num_heads: The teacher's.
        target: Heads to leave, from 1.

    Returns:
        What each pass makes, in the order of ``alphas``; and the heads that are left.
    """
    left = [Merged(str(head), (head,)) for head in range(1, num_heads + 1)]
    passes = []
    for merges in merge_passes(num_heads, target):
        left = merge_neighbours(left, merges, _join)
        passes.append(left[:merges])
    return passes, left


def _join(first: Merged, second: Merged) -> Merged:
    names = (f'({h.name})' if len(h.heads) > 1 else h.name for h in (first, second))
    return Merged('+'.join(names), first.heads + second.heads)
