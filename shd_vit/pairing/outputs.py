"""What a loss asks of a model, and what it gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

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
        logits: (R, C), a row a prediction; whatever the model gave where no loss reads it.
        attention: Taps by layer number, without those that were passed on while the model ran.
        tokens: Block outputs by block number or 'final'.
        sequences: How many inputs the rows of logits are from; None if each is from one.
    """

    logits: Tensor
    attention: dict[int, AttentionTap]
    tokens: dict[int | str, TokenTap]
    sequences: int | None = None

    @classmethod
    def of(cls, bank: TapBank, call: Callable[..., Any], *args: Any, **kwargs: Any) -> ModelOutput:
        """Run a model, by a call that gives its logits, with its bank recording."""
        with bank.record():
            logits = call(*args, **kwargs)
        return cls.recorded(bank, logits)

    @classmethod
    def recorded(cls, bank: TapBank, logits: Any) -> ModelOutput:
        """What a bank has recorded, and the logits of the same forward pass."""
        attention, tokens = bank.collect()
        taps = zip(bank.layers, attention, strict=True)
        return cls(logits, {number: tap for number, tap in taps if tap is not None}, tokens)
