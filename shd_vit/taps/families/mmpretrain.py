"""mmpretrain: ViT, DeiT, DeiT3 and others; BEiT; Swin."""

from __future__ import annotations

from functools import partial

from shd_vit.taps.families.ops import (
    add_biases,
    beit_qkv,
    relative_position_bias,
    split_heads,
    window_bias,
)
from shd_vit.taps.registry import ATTENTION_TAPS, AttentionFamily, AttentionTap


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
        return AttentionTap(q, k, v, attn.proj.weight, q.shape[-1] ** -0.5)


@ATTENTION_TAPS.register('mmpretrain.models.utils.attention.BEiTAttention')
class MMPretrainBEiTAttention(AttentionFamily):
    """``BEiTAttention``, with its own or the model's relative position bias, or both."""

    outputs = ('qkv',)

    def read(self, attn, outputs, call):
        q, k, v = split_heads(beit_qkv(attn, outputs, call['x']), attn.num_heads)
        bias = add_biases(relative_position_bias(attn), call.get('rel_pos_bias'))
        return AttentionTap(q, k, v, attn.proj.weight, attn.scale, bias)


@ATTENTION_TAPS.register('mmpretrain.models.utils.attention.WindowMSA')
class MMPretrainWindowAttention(AttentionFamily):
    """``WindowMSA`` of Swin; windows are the batch."""

    outputs = ('qkv',)

    def read(self, attn, outputs, call):
        q, k, v = split_heads(outputs['qkv'], attn.num_heads)
        bias = window_bias(attn, call.get('mask'))
        return AttentionTap(q, k, v, attn.proj.weight, attn.scale, bias)
