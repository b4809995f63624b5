"""What every distillation loss takes, and how it says what it needs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from shd_vit.taps import Anatomy, AttentionTap, TapBank, TokenTap


class Needs(NamedTuple):
    """What a loss reads from one model, besides its logits.

    Attributes:
        attention: Numbers of attention layers, from 1.
        tokens: Block numbers, from 1, or 'final'.
    """

    attention: tuple[int, ...] = ()
    tokens: tuple[int | str, ...] = ()


class ModelOutput(NamedTuple):
    """What a forward pass left for the losses.

    Attributes:
        logits: (B, classes).
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


class DistillationLoss(nn.Module):
    """Base of all distillation losses: hyper-parameters and weights, one scalar per batch.

    A loss is bound to its pair of models once, before the first batch, and then called with the
    same three arguments as all others.

    Attributes:
        weight: The factor that the loss includes, so that logs can also show it without.
        is_settled: False if the loss has to see training images before training: then
            ``observe`` is called with batches of the teacher's output, and ``settle`` at the end.
    """

    weight: float = 1.0
    is_settled: bool = True

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        """Check that this pair can be distilled; say what to record of student and teacher.

        Raises:
            ConfigError: Naming the field, its value and what is allowed.
        """
        return Needs(), Needs()

    def observe(self, teacher: ModelOutput) -> None:
        """Take in what the teacher makes of a batch of training images."""

    def settle(self) -> None:
        """Fix what depends on the images that were observed."""

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor) -> Tensor:
        """The weighted loss, a scalar.

        Args:
            student: With gradients.
            teacher: Without.
            target: (B,) class indices or (B, classes) mixed scores.
        """
        raise NotImplementedError(f'{type(self).__name__} must define forward()')
