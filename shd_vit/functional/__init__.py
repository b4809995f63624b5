"""The maths, as pure functions on tensors. Needs torch alone."""

from shd_vit.functional.attention import attention_maps, counted_rows
from shd_vit.functional.attention_loss import LazyMaps, attention_kl, attention_mse
from shd_vit.functional.attention_transfer import mean_map_kl
from shd_vit.functional.logits import hard_labels, kd_loss, nkd_loss
from shd_vit.functional.self_correlation import self_correlation, self_correlation_loss
from shd_vit.functional.simplex import residual_gram, simplex_heads, simplex_weights
from shd_vit.functional.squeeze import (
    SqueezedHeads,
    average_heads,
    gram_matrix,
    group_sizes,
    squeeze_heads,
)
from shd_vit.functional.vitkd import random_token_mask, squared_error
from shd_vit.functional.vkd import vkd_distance

__all__ = [
    'LazyMaps',
    'SqueezedHeads',
    'attention_kl',
    'attention_maps',
    'attention_mse',
    'average_heads',
    'counted_rows',
    'gram_matrix',
    'group_sizes',
    'hard_labels',
    'kd_loss',
    'mean_map_kl',
    'nkd_loss',
    'random_token_mask',
    'residual_gram',
    'self_correlation',
    'self_correlation_loss',
    'simplex_heads',
    'simplex_weights',
    'squared_error',
    'squeeze_heads',
    'vkd_distance',
]
