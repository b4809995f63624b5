"""The maths, as pure functions on tensors. Needs torch alone."""

from shd_vit.functional.attention import attention_maps, batch_slice
from shd_vit.functional.attention_kl import attention_kl
from shd_vit.functional.logits import hard_labels, kd_loss, nkd_loss
from shd_vit.functional.squeeze import SqueezedHeads, squeeze_heads
from shd_vit.functional.vitkd import random_token_mask, squared_error

__all__ = [
    'SqueezedHeads',
    'attention_kl',
    'attention_maps',
    'batch_slice',
    'hard_labels',
    'kd_loss',
    'nkd_loss',
    'random_token_mask',
    'squared_error',
    'squeeze_heads',
]
