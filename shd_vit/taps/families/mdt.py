"""MDTv2: a learned bias for each offset between patches, also of a sample's kept ones alone."""

from __future__ import annotations

from shd_vit.taps.families.ops import split_heads
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap


@ATTENTION_TAPS.register('shd_vit.hosts.diffusers.mdt.RelativeAttention')
class RelativeAttention(AttentionFamily):
    """``RelativeAttention`` of :mod:`shd_vit.hosts.diffusers.mdt`."""

    outputs = ('qkv',)

    def read(self, attn, outputs, call):
        q, k, v = split_heads(outputs['qkv'], attn.num_heads)
        bias = attn.bias(call['relative']).to(q.dtype)
        return AttentionTap(q, k, v, NO_WEIGHT, q.shape[-1] ** -0.5, bias)
