"""Constant merging, the paper's Table 8."""

from __future__ import annotations

from torch import Tensor

from shd_vit.functional import average_heads
from shd_vit.merging.strategy import MERGING_STRATEGIES, MergingStrategy


def merge_constant(maps: Tensor, value: None, out_proj: None, num_heads: int, gram: None) -> Tensor:
    """The maps of :func:`shd_vit.functional.average_heads`."""
    return average_heads(maps, num_heads)


@MERGING_STRATEGIES.register('constant')
class ConstantMerging(MergingStrategy):
    """Neighbours merge pair by pair with the weight 0.5, whatever the sample."""

    merge = staticmethod(merge_constant)
    uses_values = False
