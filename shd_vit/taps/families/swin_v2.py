"""Swin V2, of mmpretrain and timm: cosine attention in windows."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from shd_vit.taps.families.beit import beit_qkv
from shd_vit.taps.families.ops import split_heads
from shd_vit.taps.families.swin import hide_other_parts
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap


@ATTENTION_TAPS.register(
    'mmpretrain.models.utils.attention.WindowMSAV2',
    'timm.models.swin_transformer_v2.WindowAttention',
)
class CosineWindowAttention(AttentionFamily):
    """Queries and keys of length 1, times a sharpness of each head, which its queries carry."""

    outputs = ('qkv', 'cpb_mlp')

    def read(self, attn, outputs, call):
        q, k, v = split_heads(_qkv(attn, outputs, call['x']), attn.num_heads)
        sharpness = attn.logit_scale.clamp(max=math.log(100)).exp()
        q, k = F.normalize(q, dim=-1) * sharpness, F.normalize(k, dim=-1)
        mask = call.get('mask')
        bias = hide_other_parts(_position_bias(attn, outputs['cpb_mlp']), mask)
        return AttentionTap(q, k, v, NO_WEIGHT, 1.0, bias, mask is not None)


def _qkv(attn: Any, outputs: dict[str, Tensor], x: Tensor) -> Tensor:
    if attn.q_bias is None:  # mmpretrain calls a function even then
        return outputs['qkv'] if 'qkv' in outputs else F.linear(x, attn.qkv.weight)
    return beit_qkv(attn, outputs, x)


def _position_bias(attn: Any, table: Tensor) -> Tensor:
    """(1, H, N, N) from what the module's MLP makes of relative positions."""
    index = attn.relative_position_index
    by_pair = table.view(-1, attn.num_heads)[index.flatten()].unflatten(0, index.shape)
    return 16 * by_pair.permute(2, 0, 1)[None].sigmoid()
