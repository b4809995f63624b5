"""timm: Hiera."""

from __future__ import annotations

from shd_vit.taps.families.ops import split_heads
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap


@ATTENTION_TAPS.register('timm.models.hiera.MaskUnitAttention')
class MaskUnitAttention(AttentionFamily):
    """Mask units are the batch, (B W, H, N, D) for W of them; or there is one of all tokens."""

    outputs = ('qkv',)

    def refusal(self, attn):
        if attn.q_stride > 1:
            return f'its queries are pooled (q_stride={attn.q_stride}): there are fewer than keys'
        return None

    def num_heads(self, attn):
        return attn.heads

    def read(self, attn, outputs, call):
        qkv = outputs['qkv']
        if attn.use_mask_unit_attn:  # tokens of a unit stand a number of units apart
            units = qkv.shape[1] // attn.window_size
            qkv = qkv.unflatten(1, (-1, units)).transpose(1, 2).flatten(0, 1)
        q, k, v = split_heads(qkv, attn.heads)
        return AttentionTap(q, k, v, NO_WEIGHT, attn.scale)
