"""torch.nn.MultiheadAttention: torchvision's ViT, CLIP and others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shd_vit.functional.masks import ALL_KEYS, Mask
from shd_vit.taps.families.ops import add_biases, heads_first
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap


@ATTENTION_TAPS.register('torch.nn.modules.activation.MultiheadAttention')
class TorchAttention(AttentionFamily):
    """``nn.MultiheadAttention`` as self-attention, with any mask.

    It calls its projections as functions, and none at all on its fast path. What is recorded is
    its input; the input projection is done again.
    """

    def refusal(self, attn):
        if attn.bias_k is not None or attn.add_zero_attn:
            return 'add_bias_kv and add_zero_attn give the keys more tokens than the queries'
        if not attn._qkv_same_embed_dim:
            return 'kdim or vdim make it cross-attention'
        if type(attn.out_proj).forward is not nn.Linear.forward:
            cls = type(attn.out_proj)
            return (
                f'its output projection {cls.__module__}.{cls.__qualname__} is never called, as '
                'its weight is used in a function: what that class adds is left out, or merged '
                'for the length of a forward pass (an adapter of peft; merge it)'
            )
        return None

    def read(self, attn, outputs, call):
        x = call['query']
        if call['key'] is not x or call['value'] is not x:
            self.refuse(attn, 'query, key and value are not one tensor: cross-attention')
        if x.is_nested:
            self.refuse(attn, 'a nested tensor; build the encoder with enable_nested_tensor=False')
        if x.dim() != 3:
            self.refuse(attn, f'its input {tuple(x.shape)} is not a batch (B, N, E)')
        if not attn.batch_first:
            x = x.transpose(0, 1)
        qkv = F.linear(x, attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = (heads_first(part, attn.num_heads) for part in qkv.chunk(3, dim=-1))
        hidden: Tensor | None = call.get('key_padding_mask')
        seen = ALL_KEYS
        if hidden is not None and hidden.dtype == torch.bool:
            seen = Mask(padding=~hidden)
            hidden = None
        mask = call.get('attn_mask')
        if mask is not None and mask.dtype == torch.bool:
            mask = ~mask  # True hides a key here, unlike in SDPA
        if mask is not None and mask.dim() == 3:  # (B * H, N, N)
            mask = mask.unflatten(0, (-1, attn.num_heads))
        bias = add_biases(None if hidden is None else hidden[:, None, None], mask)
        scale = q.shape[-1] ** -0.5
        return AttentionTap(q, k, v, NO_WEIGHT, scale, bias, mask=seen)
