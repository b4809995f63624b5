"""BEiT and its kin, of mmpretrain and timm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shd_vit.taps.families.ops import add_biases, relative_position_bias, split_heads
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap


@ATTENTION_TAPS.register(
    'mmpretrain.models.utils.attention.BEiTAttention', 'timm.models.beit.Attention'
)
class BEiTAttention(AttentionFamily):
    """With its own or the model's relative position bias, or both."""

    outputs = ('qkv',)

    def read(self, attn, outputs, call):
        q, k, v = split_heads(beit_qkv(attn, outputs, call['x']), attn.num_heads)
        # The model's, as mmpretrain and as timm call it.
        shared = call.get('rel_pos_bias'), call.get('shared_rel_pos_bias')
        bias = add_biases(relative_position_bias(attn), *shared)
        return AttentionTap(q, k, v, NO_WEIGHT, attn.scale, bias)


def beit_qkv(attn: Any, outputs: dict[str, Tensor], x: Tensor) -> Tensor:
    """(B, N, 3 * H * D) of the BEiTs, for an input x (B, N, E).

    With a bias for queries and values alone they call their projection as a function, and nothing
    is recorded: it is done again.
    """
    if 'qkv' in outputs:
        return outputs['qkv']
    bias = torch.cat((attn.q_bias, torch.zeros_like(attn.v_bias), attn.v_bias))
    return F.linear(x, attn.qkv.weight, bias)
