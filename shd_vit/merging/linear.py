"""Linear merging, Eqs. 5 to 9 of arXiv 2502.07436."""

from __future__ import annotations

from shd_vit.merging.strategy import MERGING_STRATEGIES, MergingStrategy


@MERGING_STRATEGIES.register('linear')
class LinearMerging(MergingStrategy):
    """Neighbours merge pair by pair with the weight that loses least, one a sample and pair."""
