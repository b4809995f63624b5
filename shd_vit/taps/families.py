"""Attention families that the package knows."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from shd_vit.taps.registry import ATTENTION_TAPS, AttentionFamily, AttentionTap


@ATTENTION_TAPS.register('mmpretrain.models.utils.attention.MultiheadAttention')
class MMPretrainAttention(AttentionFamily):
    """mmpretrain's ``MultiheadAttention``: ViT, DeiT, DeiT3 and others."""

    outputs = ('qkv',)

    def refusal(self, attn):
        if isinstance(attn.scaled_dot_product_attention, partial):
            return 'with qk_scale its products are multiplied by sqrt(D) instead of divided'
        return None

    def read(self, attn, outputs, call):
        q, k, v = split_heads(outputs['qkv'], attn.num_heads)
        return AttentionTap(q, k, v, attn.proj.weight, q.shape[-1] ** -0.5)


@ATTENTION_TAPS.register(
    'timm.layers.attention.Attention', 'timm.models.vision_transformer.Attention'
)
class TimmAttention(AttentionFamily):
    """timm's ``Attention``, with q_norm and k_norm, masks and causal calls."""

    outputs = ('qkv', 'q_norm', 'k_norm')

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
        bias = additive_mask(call.get('attn_mask'), call.get('is_causal', False), q)
        return AttentionTap(q, k, v, attn.proj.weight, scale, bias)


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, 3 * H * D) to three views (B, H, N, D)."""
    # Unbound where they stand, so that their gradients are put together in one pass.
    q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).unbind(2)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def additive_mask(mask: Tensor | None, is_causal: bool, query: Tensor) -> Tensor | None:
    """SDPA's mask arguments as one additive bias: -inf at masked keys."""
    if mask is None and is_causal:
        N = query.shape[-2]
        mask = torch.ones(N, N, dtype=torch.bool, device=query.device).tril()
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, float('-inf'))
