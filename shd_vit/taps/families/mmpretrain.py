"""mmpretrain: ViT, DeiT, DeiT3 and others."""

from __future__ import annotations

from functools import partial

from shd_vit.taps.families.ops import split_heads
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap


@ATTENTION_TAPS.register('mmpretrain.models.utils.attention.MultiheadAttention')
class MMPretrainAttention(AttentionFamily):
    """``MultiheadAttention``, which calls SDPA."""

    outputs = ('qkv',)

    def refusal(self, attn):
        if isinstance(attn.scaled_dot_product_attention, partial):
            return 'with qk_scale its products are multiplied by sqrt(D) instead of divided'
        return None

    def read(self, attn, outputs, call):
        q, k, v = split_heads(outputs['qkv'], attn.num_heads)
        return AttentionTap(q, k, v, NO_WEIGHT, q.shape[-1] ** -0.5)
