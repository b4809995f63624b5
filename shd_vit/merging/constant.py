"""Constant merging, the paper's Table 8."""

from __future__ import annotations

from shd_vit.functional import weigh_constant
from shd_vit.merging.strategy import MERGING_STRATEGIES, MergingStrategy


@MERGING_STRATEGIES.register('constant')
class ConstantMerging(MergingStrategy):
    """Neighbours merge pair by pair with the weight 0.5, whatever the sample."""

    weigh = staticmethod(weigh_constant)
    uses_values = False
