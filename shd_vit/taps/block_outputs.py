"""Tokens after blocks: where they are recorded, which of them count and how patches stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from shd_vit.errors import UnsupportedAttention
from shd_vit.taps.anatomy import Anatomy
from shd_vit.taps.family import KeepOutput, bound_arguments
from shd_vit.taps.store import CALLS, Keep, Key, Recording, Store
from shd_vit.taps.tap import FINAL, TokenTap

TOKENS = 'tokens'
GRID = 'grid'


class BlockOutputs:
    """Records the outputs of blocks of a model.

    Args:
        anatomy: Of the model.
        tokens: Block numbers from 1, un-normed, and 'final' for the tokens after the final norm.

    Raises:
        UnsupportedAttention: If it is not known which tokens these are.
    """

    def __init__(self, anatomy: Anatomy, tokens: Sequence[int | str]) -> None:
        self.anatomy = anatomy
        self.tokens = list(tokens)
        if not tokens:
            return
        self.num_prefix, self.segments = anatomy.num_prefix_tokens, anatomy.segments
        self.points: dict[int | str, nn.Module]
        self.points = {t: anatomy.blocks[t - 1] for t in self.tokens if isinstance(t, int)}
        if FINAL in self.tokens:
            # Only what runs after the last block is the norm after it.
            self.points.setdefault(anatomy.depth, anatomy.blocks[-1])
            self.points[FINAL] = anatomy.final_norm
        for layer in anatomy.layers:
            if not getattr(layer.attn, 'batch_first', True):
                raise UnsupportedAttention(
                    f'tokens of the {anatomy.role} are (N, B, E), as {layer.name!r} has '
                    'batch_first=False: they are read as (B, N, E)'
                )

    def attach(self, store: Store) -> list[Any]:
        """Install the hooks; returns their handles."""
        if not self.tokens:
            return []
        hooks = [(module, Keep(store, TOKENS), token) for token, module in self.points.items()]
        hooks += [(conv, Keep(store, GRID, again=True), GRID) for conv in self._convolutions()]
        return [module.register_forward_hook(KeepOutput(keep, of)) for module, keep, of in hooks]

    def _convolutions(self) -> list[nn.Module]:
        """Those before the blocks: the last that runs makes the patches."""
        found: list[nn.Module] = []
        for module in self.anatomy.model.modules():
            if module is self.anatomy.blocks[0]:
                break
            if isinstance(module, nn.Conv2d):
                found.append(module)
        return found

    def read(self, recording: Recording) -> dict[int | str, TokenTap]:
        """What was recorded, by block number or 'final'.

        Raises:
            KeyError: If a block did not run.
            UnsupportedAttention: If this call's tokens cannot be had.
        """
        return {token: self._tap(token, recording) for token in self.tokens}

    def _tap(self, token: int | str, recording: Recording) -> TokenTap:
        x = self._sequence(token, recording)
        mask = self._mask(x, recording)
        return TokenTap(x, self.num_prefix, mask, self._grid(x, recording), self.segments)

    def _sequence(self, token: int | str, recording: Recording) -> Tensor:
        output = recording.kept[TOKENS, token]
        parts = output if isinstance(output, tuple) else (output,)
        # Caches and attention maps that come along have another rank.
        sequences = [x for x in parts if isinstance(x, Tensor) and x.dim() == 3]
        if token == FINAL and not self._is_last(recording.kept):
            self._refuse(token, 'runs before the last block')
        if len(sequences) != 1 or parts[0] is not sequences[0]:
            shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in parts]
            self._refuse(token, f'gives {shapes}, not one sequence (B, N, E)')
        return sequences[0]

    def _is_last(self, kept: dict[Key, Any]) -> bool:
        """Whether the final norm, if it is one, ran after the last block."""
        places = {kept_at: place for place, kept_at in enumerate(kept)}
        last = places[TOKENS, self.anatomy.depth]
        return self.points[FINAL] is self.anatomy.blocks[-1] or places[TOKENS, FINAL] > last

    def _refuse(self, token: int | str, reason: str) -> NoReturn:
        module = type(self.points[token]).__name__
        raise UnsupportedAttention(
            f'tokens {token!r} of the {self.anatomy.role} cannot be read: {module} {reason}'
        )

    def _mask(self, x: Tensor, recording: Recording) -> Tensor | None:
        """Bool (B, N), True at tokens that count, as the innermost module that says was told."""
        for number, module in enumerate(self.anatomy.around):
            call = recording.kept.get((CALLS, number))
            mask = None if call is None else _counted(bound_arguments(module, *call))
            if mask is None:
                continue
            if mask.shape == (len(x), x.shape[1] - self.num_prefix):  # of patches alone
                mask = torch.cat([mask.new_ones(len(x), self.num_prefix), mask], dim=1)
            if mask.shape != x.shape[:2]:
                raise UnsupportedAttention(
                    f'the {self.anatomy.role} was given a mask {tuple(mask.shape)} for tokens '
                    f'{tuple(x.shape)}: which of them count is unknown'
                )
            return mask
        return None

    def _grid(self, x: Tensor, recording: Recording) -> tuple[int, int] | None:
        """Rows and columns of the patch embedding's output, if every patch is there."""
        patches = recording.kept.get((GRID, GRID))
        if patches is None or patches.dim() != 4:
            return None
        rows, columns = patches.shape[2:]
        return (rows, columns) if rows * columns == x.shape[1] - self.num_prefix else None


def _counted(arguments: dict[str, Any]) -> Tensor | None:
    """Bool, True at tokens that count, from the arguments of a call; None if it has no mask."""
    x = arguments.get('x')
    given = {**(x if isinstance(x, dict) else {}), **arguments}
    for name in ('attention_mask', 'patch_valid'):  # transformers; timm's NaFlex
        mask = given.get(name)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            return mask != 0
    mask = given.get('src_key_padding_mask')  # torch: True, or -inf, is padding
    if isinstance(mask, Tensor) and mask.dim() == 2:
        return ~mask if mask.dtype == torch.bool else mask == 0
    return None
