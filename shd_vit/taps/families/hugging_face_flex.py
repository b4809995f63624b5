"""What a call of flex attention masks and adds, as transformers' wrapper reads it.

https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/integrations/flex_attention.py
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from shd_vit.errors import UnsupportedAttention
from shd_vit.functional import Mask


def flex_mask(
    query: Tensor, mask: Any, is_causal: bool, call: dict[str, Any]
) -> tuple[Tensor | None, Mask]:
    """The bias of a call, bool or additive: all that hides keys is in its mask.

    Args:
        query: (B, H, N, D).
        mask: A ``BlockMask``, whose rule is asked for each query and key; or additive, of which the
            wrapper reads the first head; or None, for no mask at all.
        is_causal: Not read, as by the wrapper.
        call: Other arguments.

    Raises:
        UnsupportedAttention: If the mask is of another kind or size.
    """
    from torch.nn.attention.flex_attention import BlockMask, create_mask

    N = query.shape[2]
    if isinstance(mask, BlockMask):
        if tuple(mask.shape[-2:]) != (N, N):
            raise UnsupportedAttention(f'a BlockMask {tuple(mask.shape)} does not fit {N} tokens')
        batch, heads = mask.shape[:2]
        return create_mask(mask.mask_mod, batch, heads, N, N, device=query.device), Mask()
    if mask is None:
        return None, Mask()
    if mask.dim() != 4 or not mask.is_floating_point():
        raise UnsupportedAttention(
            f'attention_mask {tuple(mask.shape)} of {mask.dtype} must be a BlockMask, or '
            'additive (B, H, N, N), for flex attention'
        )
    return mask[:, :1, :, :N], Mask()
