"""What a loss asks of a model, and what it gets."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from shd_vit.taps import AttentionTap, TapBank, TokenTap


class Needs(NamedTuple):
    """What a loss reads from one model.

    Attributes:
        attention: Numbers of attention layers, from 1.
        tokens: Block numbers, from 1, or 'final'.
        logits: Whether it reads the logits.
    """

    attention: tuple[int, ...] = ()
    tokens: tuple[int | str, ...] = ()
    logits: bool = False


class ModelOutput(NamedTuple):
    """What a forward pass left for the losses.

    Attributes:
        logits: (R, C), a row a prediction.
        attention: Taps by layer number.
        tokens: Block outputs by block number or 'final'.
    """

    logits: Tensor
    attention: dict[int, AttentionTap]
    tokens: dict[int | str, TokenTap]

    @classmethod
    def of(cls, model: nn.Module, bank: TapBank, images: Tensor) -> ModelOutput:
        """Run a classifier on images (B, C, h, w) with its bank recording."""
        with bank.record():
            logits = model(images)
        attention, tokens = bank.collect()
        return cls(logits, dict(zip(bank.layers, attention, strict=True)), tokens)
