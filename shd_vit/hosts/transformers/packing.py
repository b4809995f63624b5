"""Sequences that stand in one row, told apart by positions that start anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.pairing import ModelOutput
from shd_vit.taps import AttentionTap, TokenTap


class Packing(NamedTuple):
    """Where the sequences of a packed batch stand.

    Attributes:
        places: (S, L), of each token of each of S sequences in the batch as one row of B N tokens;
            0 beyond the end of a sequence shorter than L.
        is_token: Bool (S, L), False beyond the end.
    """

    places: Tensor
    is_token: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> Packing | None:
        """That of a batch; None if each row is one sequence, as with a mask of padding.

        So transformers tells packed rows: there are positions, and no mask.
        """
        positions = batch.get('position_ids')
        if batch.get('attention_mask') is not None or not isinstance(positions, Tensor):
            return None
        starts = torch.ones_like(positions, dtype=torch.bool)
        starts[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
        first = starts.flatten().nonzero().flatten()
        if len(first) == len(positions):
            return None
        ends = torch.cat([first[1:], first.new_tensor([positions.numel()])])
        lengths = (ends - first)[:, None]
        steps = torch.arange(int(lengths.max()), device=first.device)
        is_token = steps < lengths
        return cls((first[:, None] + steps).masked_fill(~is_token, 0), is_token)

    def unpack(self, output: ModelOutput) -> ModelOutput:
        """What a model left, a sequence a sample, as it would be alone with padding at its end.

        Raises:
            ConfigError: If its attention saw over the ends of sequences.
        """
        attention = {n: self._attention(tap) for n, tap in output.attention.items()}
        tokens = {n: self._tokens(tap) for n, tap in output.tokens.items()}
        return output._replace(attention=attention, tokens=tokens)

    def _attention(self, tap: AttentionTap) -> AttentionTap:
        B, _, N, _ = tap.q.shape
        q, k, v = (
            x.transpose(1, 2).flatten(0, 1)[self.places].transpose(1, 2)
            for x in (tap.q, tap.k, tap.v)
        )
        bias = tap.bias
        if bias is None and tap.mask.documents is None:
            raise ConfigError(
                'the batch packs sequences (position_ids start anew), but attention was not told: '
                "they see each other; call model.set_attn_implementation('sdpa')"
            )
        if bias is not None:
            row, place = self.places // N, self.places % N
            each = bias.expand(B, bias.shape[-3] if bias.dim() > 2 else 1, N, N)
            bias = each[row[:, :, None], :, place[:, :, None], place[:, None]].permute(0, 3, 1, 2)
        mask = tap.mask._replace(
            padding=self.is_token, documents=None, queries=self._tokens_of(tap.mask.queries)
        )
        return tap._replace(q=q, k=k, v=v, bias=bias, mask=mask)

    def _tokens(self, tap: TokenTap) -> TokenTap:
        counted = self._tokens_of(tap.mask)
        mask = self.is_token if counted is None else counted
        return tap._replace(x=tap.x.flatten(0, 1)[self.places], mask=mask)

    def _tokens_of(self, counted: Tensor | None) -> Tensor | None:
        """Which tokens of (B, N) count, a sequence a row: (S, L); None if all do."""
        return None if counted is None else counted.flatten()[self.places] & self.is_token


def count_sequences(batch: Mapping[str, Any], rows: int) -> int:
    """How many sequences a batch of so many rows holds."""
    packing = Packing.of(batch)
    return rows if packing is None else len(packing.places)
