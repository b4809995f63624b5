"""timm: TinyViT."""

from __future__ import annotations

from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap


@ATTENTION_TAPS.register('timm.models.tiny_vit.Attention')
class TinyViTAttention(AttentionFamily):
    """Windows are the batch; values may be wider than keys."""

    outputs = ('qkv',)

    def read(self, attn, outputs, call):
        widths = [attn.key_dim, attn.key_dim, attn.val_dim]
        by_head = outputs['qkv'].unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
        q, k, v = by_head.split(widths, dim=-1)
        bias = attn.attention_biases[:, attn.attention_bias_idxs]
        return AttentionTap(q, k, v, NO_WEIGHT, attn.scale, bias)
