"""timm: the image encoder of SAM."""

from __future__ import annotations

from shd_vit.taps.families.ops import split_heads
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap


@ATTENTION_TAPS.register('timm.models.vision_transformer_sam.Attention')
class SAMAttention(AttentionFamily):
    """On (B, h, w, E): images, or windows, which at the edge hold padding that is attended to.

    Relative positions are products with the queries.
    """

    outputs = ('qkv', 'q_norm', 'k_norm')

    def read(self, attn, outputs, call):
        from timm.layers import apply_rot_embed_cat
        from timm.models.vision_transformer_sam import get_decomposed_rel_pos_bias

        B, *size, _ = call['x'].shape
        v = split_heads(outputs['qkv'].view(B, size[0] * size[1], -1), attn.num_heads)[2]
        q, k, bias = outputs['q_norm'], outputs['k_norm'], None  # (B * H, N, D)
        if attn.use_rel_pos:
            bias = get_decomposed_rel_pos_bias(q, attn.rel_pos_h, attn.rel_pos_w, size, size)
            bias = bias.unflatten(0, (B, -1))
        elif attn.rope is not None:
            rope = attn.rope.get_embed()
            q, k = (apply_rot_embed_cat(x, rope).type_as(v) for x in (q, k))
        q, k = (x.unflatten(0, (B, -1)) for x in (q, k))
        return AttentionTap(q, k, v, NO_WEIGHT, attn.scale, bias)
