"""Linear merging, Eqs. 5 to 9 of arXiv 2502.07436."""

from __future__ import annotations

from torch import Tensor

from shd_vit.functional import squeeze_heads
from shd_vit.merging.strategy import MERGING_STRATEGIES, MergingStrategy


def merge_linear(
    maps: Tensor, value: Tensor, out_proj: Tensor, num_heads: int, gram: Tensor
) -> Tensor:
    """The maps of :func:`shd_vit.functional.squeeze_heads`."""
    return squeeze_heads(maps, value, out_proj, num_heads, gram).maps


@MERGING_STRATEGIES.register('linear')
class LinearMerging(MergingStrategy):
    """Neighbours merge pair by pair with the weight that loses least, one a sample and pair."""

    merge = staticmethod(merge_linear)
