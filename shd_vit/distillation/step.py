"""Distillation losses on a pair of models: what to record of each, and what to see beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from shd_vit.losses import DistillationLoss
from shd_vit.pairing import ModelOutput
from shd_vit.taps import Anatomy, TapBank


def bind_losses(
    losses: Mapping[str, DistillationLoss], student: nn.Module, teacher: nn.Module
) -> tuple[TapBank, TapBank]:
    """Bind losses to their pair of models.

    Returns:
        Banks of the student and of the teacher, which record what any of the losses needs.

    Raises:
        ConfigError: If the pair cannot be distilled with one of them.
        UnsupportedAttention: If one of them needs attention that cannot be tapped.
    """
    anatomies = Anatomy(student, 'student'), Anatomy(teacher, 'teacher')
    needs = [loss.bind(*anatomies) for loss in losses.values()]
    students, teachers = zip(*needs, strict=True) if needs else ((), ())

    def bank(anatomy: Anatomy, needs: tuple) -> TapBank:
        layers = sorted({layer for need in needs for layer in need.attention})
        tokens = dict.fromkeys(token for need in needs for token in need.tokens)
        # Heads are merged by what the teacher's output projection makes of them; a student's is
        # not read, and may be sharded.
        out_proj = anatomy.role == 'teacher'
        return TapBank(anatomy, layers, tokens=list(tokens), out_proj=out_proj)

    return bank(anatomies[0], students), bank(anatomies[1], teachers)


def settle_losses(losses: Mapping[str, DistillationLoss], outputs: Iterable[ModelOutput]) -> None:
    """Show the losses that ask for it what the teacher makes of training images.

    Args:
        losses: The losses.
        outputs: Of the teacher, batch by batch; not touched if no loss asks.
    """
    asking = [loss for loss in losses.values() if not loss.is_settled]
    if not asking:
        return
    for output in outputs:
        for loss in asking:
            loss.observe(output)
    for loss in asking:
        loss.settle()
