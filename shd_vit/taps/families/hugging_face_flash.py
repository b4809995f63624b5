"""What a call of flash attention masks, as transformers' wrapper reads it.

https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/modeling_flash_attention_utils.py
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shd_vit.errors import UnsupportedAttention
from shd_vit.functional import Mask

_LENGTHS = ('cu_seq_lens_q', 'cu_seq_lens_k', 'max_length_q', 'max_length_k')


def flash_mask(
    query: Tensor, padding: Tensor | None, is_causal: bool, call: dict[str, Any]
) -> tuple[None, Mask]:
    """No bias, and the mask of a call.

    Args:
        query: (B, H, N, D).
        padding: (B, N), 0 at padding; None where there is none.
        is_causal: Whether keys behind a query are hidden.
        call: Other arguments: ``sliding_window``, ``cu_seq_lens_q``, ``position_ids``, ...

    Raises:
        UnsupportedAttention: If the wrapper would do what a mask cannot say.
    """
    B, _, N, _ = query.shape
    if call.get('block_table') is not None:
        raise UnsupportedAttention('block_table: a paged cache is not self-attention')
    window = call.get('sliding_window')
    mask = Mask(is_causal=is_causal, window=window if (window or N) < N else None)
    if padding is not None:
        if padding.shape != (B, N):
            raise UnsupportedAttention(
                f'attention_mask {tuple(padding.shape)} must be (B, N) = {(B, N)} for flash '
                'attention'
            )
        padding = padding.bool()
        if mask.window is not None and _has_gaps(padding):
            raise UnsupportedAttention(
                f'sliding_window={window} counts tokens without the padding between them: pad at '
                'one end'
            )
        return None, mask._replace(padding=padding)
    if all(call.get(name) is not None for name in _LENGTHS):
        return None, _of_lengths(mask, B, N, call['cu_seq_lens_q'], call['cu_seq_lens_k'])
    return None, _of_positions(mask, B, call.get('position_ids'))


def _of_lengths(mask: Mask, B: int, N: int, of_queries: Tensor, of_keys: Tensor) -> Mask:
    """Documents that end where lengths, added up, say."""
    if B > 1:
        raise UnsupportedAttention(
            f'cu_seq_lens_q of {B} rows: documents could reach over rows; pack into one'
        )
    if of_queries is not of_keys and not torch.equal(of_queries, of_keys):
        raise UnsupportedAttention('cu_seq_lens_q and cu_seq_lens_k differ: not self-attention')
    places = torch.arange(N, device=of_queries.device)
    documents = torch.searchsorted(of_queries, places, right=True)[None]
    return mask._replace(documents=documents, padding=(places < of_queries[-1])[None])


def _of_positions(mask: Mask, B: int, positions: Tensor | None) -> Mask:
    """Documents that start where positions do. Of several rows, the wrapper looks at none."""
    if positions is None or positions.shape[-1] == 1 or (B > 1 and len(positions) == 1):
        return mask
    if positions.dim() != 2:
        raise UnsupportedAttention(f'position_ids {tuple(positions.shape)} must be (B, N)')
    if not (positions.diff(dim=-1) != 1).any():
        return mask
    if B > 1:
        raise UnsupportedAttention(
            f'position_ids start anew within {B} rows, and flash attention looks at those of one '
            "row alone: documents would see each other; call model.set_attn_implementation('sdpa')"
        )
    starts = positions == positions.min()
    if not starts[0, 0]:
        raise UnsupportedAttention(
            f'position_ids begin with {int(positions[0, 0])}, and a document with '
            f'{int(positions.min())}: flash attention leaves out what precedes'
        )
    return mask._replace(documents=starts.cumsum(-1))


def _has_gaps(padding: Tensor) -> bool:
    """Whether a row has padding between tokens."""
    starts = padding[:, 1:] & ~padding[:, :-1]
    return bool((starts.sum(1) + padding[:, 0] > 1).any())
