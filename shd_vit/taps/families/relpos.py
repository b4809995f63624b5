"""timm: ViTs with relative positions."""

from __future__ import annotations

from torch.nn import Dropout

from shd_vit.taps.families.ops import add_biases, split_heads
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap


@ATTENTION_TAPS.register('timm.models.vision_transformer_relpos.RelPosAttention')
class RelPosAttention(AttentionFamily):
    """With relative positions of its own or of the model."""

    outputs = ('qkv', 'q_norm', 'k_norm')

    def read(self, attn, outputs, call):
        v = split_heads(outputs['qkv'], attn.num_heads)[2]
        own = None if attn.rel_pos is None else self._own_bias(attn)
        shared = call.get('shared_rel_pos')
        if attn.fused_attn and own is not None:
            shared = None  # with SDPA the module takes one of them
        bias = add_biases(own, shared)
        return AttentionTap(outputs['q_norm'], outputs['k_norm'], v, NO_WEIGHT, attn.scale, bias)

    def _own_bias(self, attn):
        if any(isinstance(m, Dropout) and m.training and m.p > 0 for m in attn.rel_pos.modules()):
            self.refuse(
                attn,
                'in training its relative positions are dropped at random, as they cannot be '
                'computed again; set p = 0 in all Dropout of its rel_pos',
            )
        return attn.rel_pos.get_bias()
