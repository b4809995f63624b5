"""Swin, of mmpretrain and timm."""

from __future__ import annotations

from torch import Tensor

from shd_vit.taps.families.ops import relative_position_bias, split_heads
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap


@ATTENTION_TAPS.register(
    'mmpretrain.models.utils.attention.WindowMSA',
    'timm.models.swin_transformer.WindowAttention',
)
class WindowAttention(AttentionFamily):
    """Windows are the batch: (B' W, H, N, D) for W windows an image of N tokens each."""

    outputs = ('qkv',)

    def read(self, attn, outputs, call):
        q, k, v = split_heads(outputs['qkv'], attn.num_heads)
        mask = call.get('mask')
        bias = relative_position_bias(attn)
        assert bias is not None
        bias = hide_other_parts(bias, mask)
        return AttentionTap(q, k, v, NO_WEIGHT, attn.scale, bias, mask is not None)


def hide_other_parts(bias: Tensor, mask: Tensor | None) -> Tensor:
    """A bias with -inf between the parts of a shifted window.

    Args:
        bias: (1, H, N, N).
        mask: (W, N, N), 0 or -100 as the Swins have it, for a batch of B' W windows; or None.

    Returns:
        (1 or W, H, N, N).
    """
    # -100 is no weight in float32 at T_a = 1; it would be some at a high T_a.
    return bias if mask is None else bias.masked_fill((mask < 0)[:, None], float('-inf'))
