"""What a forward pass leaves: taps of attention layers and of tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shd_vit.functional.masks import ALL_KEYS, Mask
from shd_vit.taps.tokens import Segment

FINAL = 'final'
NO_WEIGHT = torch.empty(0, 0)  # in place of an output projection that is not read


class AttentionTap(NamedTuple):
    """What one attention layer computed its maps from.

    Attributes:
        q, k, v: (B, H, N, D), as scaled dot-product attention received them.
        out_proj: (E, H * D), weight of the output projection; empty if it is not read.
        scale: Factor on the dot products.
        bias: Additive mask or position bias, or a bool mask (True where a key is seen),
            broadcastable to (B, H, N, N); (W, H, N, N) for a batch of B = B' W windows; or None.
        is_shifted: Whether these are windows that stand shifted, and so hold other tokens.
        mask: What can be said without an N x N tensor: a causal flag, padding, a window, packed
            documents. Holds besides ``bias``.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    out_proj: Tensor
    scale: float
    bias: Tensor | None = None
    is_shifted: bool = False
    mask: Mask = ALL_KEYS

    def select(self, tokens: Tensor) -> AttentionTap:
        """A tap of the given tokens (n,) alone, in that order, as queries and as keys.

        Its maps are the attention given that the key is one of them: softmaxes over these keys.
        """
        q, k, v = (x.index_select(2, tokens) for x in (self.q, self.k, self.v))
        bias = self.whole_bias()
        for dim in (-1, -2):
            if bias is not None and bias.dim() >= -dim and bias.shape[dim] > 1:
                bias = bias.index_select(dim, tokens)
        queries = self.mask.queries
        if queries is not None:
            queries = queries.index_select(1, tokens)
        return self._replace(q=q, k=k, v=v, bias=bias, mask=Mask(queries=queries))

    def whole_bias(self) -> Tensor | None:
        """``bias`` and ``mask`` in one, for those who make whole maps anyway; or None."""
        seen = self.mask.dense(len(self.q), self.q.shape[2], self.k.shape[2], self.q.device)
        if seen is None or self.bias is None:
            return self.bias if seen is None else seen
        if self.bias.dtype == torch.bool:
            return self.bias & seen
        return self.bias.masked_fill(~seen, float('-inf'))


class TokenTap(NamedTuple):
    """Tokens after a block.

    Attributes:
        x: (B, N, E).
        num_prefix: How many of the N come before the patches, or before whatever the model's last
            segment is; 0 where tokens are all of one kind.
        mask: Bool (B, N), True at tokens that count, False at padding. None counts all.
        grid: Rows and columns of the patches. None if not known.
        segments: The N tokens by name, such as ``('cls', 'patches')``; empty where they are all of
            one kind, or their names are not known.
    """

    x: Tensor
    num_prefix: int
    mask: Tensor | None = None
    grid: tuple[int, int] | None = None
    segments: tuple[Segment, ...] = ()

    @property
    def patches(self) -> Tensor:
        """(B, N - num_prefix, E)"""
        return self.x[:, self.num_prefix :]


class Captured(NamedTuple):
    """What one forward pass left in a bank.

    Attributes:
        attention: One tap for each of the bank's ``layers``, in their order; None in the place of
            those that were passed on while the model ran.
        tokens: Outputs of the bank's ``tokens``, by block number or 'final'.
    """

    attention: list[AttentionTap]
    tokens: dict[int | str, TokenTap]


def select_heads(tap: AttentionTap, heads: Tensor) -> AttentionTap:
    """A tap of the given heads (n,) alone, in that order."""
    num_heads, width = tap.q.shape[1], tap.v.shape[-1]
    bias = tap.bias
    if bias is not None and bias.dim() > 2 and bias.shape[-3] == num_heads:
        bias = bias.index_select(-3, heads)
    out_proj = tap.out_proj.unflatten(1, (num_heads, width)).index_select(1, heads).flatten(1)
    q, k, v = (tensor.index_select(1, heads) for tensor in (tap.q, tap.k, tap.v))
    return tap._replace(q=q, k=k, v=v, out_proj=out_proj, bias=bias)
