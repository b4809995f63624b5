"""timm: ViT, DeiT and others; rotary positions."""

from __future__ import annotations

import torch
from torch import nn

from shd_vit.taps.families.beit import beit_qkv
from shd_vit.taps.families.ops import heads_first, sdpa_mask, split_heads
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap


@ATTENTION_TAPS.register(
    'timm.layers.attention.Attention', 'timm.models.vision_transformer.Attention'
)
class TimmAttention(AttentionFamily):
    """``Attention``, with q_norm and k_norm, masks and causal calls."""

    outputs: tuple[str, ...] = ('qkv', 'q_norm', 'k_norm')

    def refusal(self, attn):
        if getattr(attn, 'gate', None) is not None:
            return 'a gate between attention and its output projection'
        if not isinstance(getattr(attn, 'norm', nn.Identity()), nn.Identity):
            return 'a norm between attention and its output projection'
        return None

    def read(self, attn, outputs, call):
        q, k = outputs['q_norm'], outputs['k_norm']
        v = split_heads(outputs['qkv'], attn.num_heads)[2]
        # SDPA is called without a scale and so takes its own; the plain path takes the module's.
        scale = q.shape[-1] ** -0.5 if attn.fused_attn else attn.scale
        bias, mask = sdpa_mask(call.get('attn_mask'), call.get('is_causal', False))
        return AttentionTap(q, k, v, NO_WEIGHT, scale, bias, mask=mask)


@ATTENTION_TAPS.register('timm.layers.attention.AttentionRope', 'timm.models.eva.EvaAttention')
class TimmRotaryAttention(TimmAttention):
    """``AttentionRope`` and EVA: rotary positions, one or three projections, grouped key heads."""

    outputs = ('qkv', 'v_proj', 'q_norm', 'k_norm')

    def read(self, attn, outputs, call):
        from timm.layers import apply_rot_embed_cat

        q, k = outputs['q_norm'], outputs['k_norm']
        groups = getattr(attn, 'num_kv_groups', 1)
        if attn.qkv is None:
            v = heads_first(outputs['v_proj'], attn.num_heads // groups)
        else:
            v = split_heads(beit_qkv(attn, outputs, call['x']), attn.num_heads)[2]
        rope = call.get('rope')
        if rope is not None:
            prefix = attn.num_prefix_tokens

            def rotate(x):
                rotated = apply_rot_embed_cat(x[:, :, prefix:], rope, half=attn.rotate_half)
                return torch.cat([x[:, :, :prefix], rotated], dim=2).type_as(v)

            q, k = rotate(q), rotate(k)
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        bias, mask = sdpa_mask(call.get('attn_mask'), call.get('is_causal', False))
        return AttentionTap(q, k, v, NO_WEIGHT, attn.scale, bias, mask=mask)
