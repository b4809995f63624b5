"""Merging whole groups of heads at once, beyond the paper."""

from __future__ import annotations

from shd_vit.functional import weigh_simplex
from shd_vit.merging.strategy import MERGING_STRATEGIES, MergingStrategy


@MERGING_STRATEGIES.register('simplex')
class SimplexMerging(MergingStrategy):
    """Each group of heads merges with the best convex weights that it has.

    Groups are those of linear merging, which this equals where they are pairs.
    """

    weigh = staticmethod(weigh_simplex)
