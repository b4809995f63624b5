"""The maths, as pure functions on tensors. Needs torch alone."""

from shd_vit.functional.attention import attention_maps, counted_rows
from shd_vit.functional.attention_kl import LazyMaps, attention_kl
from shd_vit.functional.logits import hard_labels, kd_loss, nkd_loss
from shd_vit.functional.squeeze import SqueezedHeads, gram_matrix, squeeze_heads
from shd_vit.functional.vitkd import random_token_mask, squared_error

__all__ = [
    'LazyMaps',
    'SqueezedHeads',
    'attention_kl',
    'attention_maps',
    'counted_rows',
    'gram_matrix',
    'hard_labels',
    'kd_loss',
    'nkd_loss',
    'random_token_mask',
    'squared_error',
    'squeeze_heads',
]
