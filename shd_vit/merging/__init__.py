"""Strategies by which a teacher's heads become as many as the student's."""

from shd_vit.merging import constant, hard, matching, simplex  # noqa: F401  (they register)
from shd_vit.merging.linear import LinearMerging
from shd_vit.merging.strategy import MERGING_STRATEGIES, Groups, MergingStrategy

__all__ = ['MERGING_STRATEGIES', 'Groups', 'LinearMerging', 'MergingStrategy']
