"""The maths, as pure functions on tensors. Needs torch alone.

Shape legend, in docstrings and, where several shapes meet, as suffixes of names (``maps_BHNN``):
B batch, H heads (Ht of the teacher, Hs of the student), N tokens (queries, where keys are M),
D head width, E model width; of merging, G groups (a student head each), k heads of a group, i those
but the first, P pairs, F columns of stacked heads.
"""

from shd_vit.functional.attention import attention_maps
from shd_vit.functional.attention_loss import attention_kl, attention_mse
from shd_vit.functional.attention_transfer import mean_map_kl
from shd_vit.functional.lazy import LazyMaps
from shd_vit.functional.logits import hard_labels, kd_loss, nkd_loss
from shd_vit.functional.masks import Mask, counted_rows
from shd_vit.functional.merging import (
    head_outputs,
    head_weights,
    merge_maps,
    weigh_constant,
    weigh_linear,
)
from shd_vit.functional.order import group_sizes, merge_neighbours, merge_passes
from shd_vit.functional.self_correlation import self_correlation, self_correlation_loss
from shd_vit.functional.shd import shd_loss
from shd_vit.functional.simplex import residual_gram, simplex_weights, weigh_simplex
from shd_vit.functional.squeeze import SqueezedHeads, gram_matrix, squeeze_heads
from shd_vit.functional.teacher import map_cosines
from shd_vit.functional.vitkd import random_token_mask, squared_error
from shd_vit.functional.vkd import vkd_distance

__all__ = [
    'LazyMaps',
    'Mask',
    'SqueezedHeads',
    'attention_kl',
    'attention_maps',
    'attention_mse',
    'counted_rows',
    'gram_matrix',
    'group_sizes',
    'hard_labels',
    'head_outputs',
    'head_weights',
    'kd_loss',
    'map_cosines',
    'mean_map_kl',
    'merge_maps',
    'merge_neighbours',
    'merge_passes',
    'nkd_loss',
    'random_token_mask',
    'residual_gram',
    'self_correlation',
    'self_correlation_loss',
    'shd_loss',
    'simplex_weights',
    'squared_error',
    'squeeze_heads',
    'vkd_distance',
    'weigh_constant',
    'weigh_linear',
    'weigh_simplex',
]
