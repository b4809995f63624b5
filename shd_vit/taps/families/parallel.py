"""timm's blocks that compute attention and MLP side by side, from one projection."""

from __future__ import annotations

from shd_vit.taps.families.ops import heads_first, sdpa_mask
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.projection import read_weight
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap


@ATTENTION_TAPS.register('timm.models.vision_transformer.ParallelScalingBlock')
class ParallelBlock(AttentionFamily):
    """The block is its own attention (ViT-22B)."""

    outputs = ('in_proj', 'q_norm', 'k_norm')
    is_block = True

    def projection(self, attn):
        return attn.attn_out_proj

    def out_proj(self, attn):
        if attn.out_proj is None:
            return super().out_proj(attn)
        return read_weight(attn.out_proj)[:, : attn.in_split[-1]]  # the rest is the MLP's

    def read(self, attn, outputs, call):
        q, k = (outputs[name].transpose(1, 2) for name in ('q_norm', 'k_norm'))
        v = heads_first(outputs['in_proj'].split(attn.in_split, dim=-1)[-1], attn.num_heads)
        bias, mask = sdpa_mask(call.get('attn_mask'), call.get('is_causal', False))
        return AttentionTap(q, k, v, NO_WEIGHT, attn.scale, bias, mask=mask)
