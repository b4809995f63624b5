"""The frozen teacher, kept outside the module tree of whoever learns from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shd_vit.pairing import ModelOutput
from shd_vit.taps import TapBank


class FrozenTeacher:
    """A model that is only looked at: no gradient, always in eval mode.

    It is not an ``nn.Module``, so the student's state dict, optimiser, DDP buckets and ``train()``
    never reach it, and copies of the student (EMA) share it instead of copying it.

    Args:
        model: The classifier; ``model(images)`` gives logits.
        bank: Taps on ``model``.
        renormalise: From the images as the student sees them to the teacher's own normalisation:
            (factor, offset), each (3, 1, 1). None if both expect the same.
    """

    def __init__(
        self, model: nn.Module, bank: TapBank, renormalise: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.model = model.requires_grad_(False)
        self.model.eval()
        self.bank = bank
        self.renormalise = renormalise
        self.is_ready = False

    @torch.no_grad()  # not inference_mode: its tensors cannot take part in the student's backward
    def __call__(self, images: Tensor) -> ModelOutput:
        """Logits and taps for images (B, 3, h, w) that are normalised for the student."""
        if not self.is_ready:
            raise RuntimeError(
                "the teacher has no weights yet: call the distiller's init_weights()"
            )
        if self.renormalise is not None:
            factor, offset = (t.to(images.device, images.dtype) for t in self.renormalise)
            images = images * factor + offset
        return ModelOutput.of(self.model, self.bank, images)

    def __deepcopy__(self, memo: dict) -> FrozenTeacher:
        return self


def renormalisation(student: dict, teacher: dict) -> tuple[Tensor, Tensor] | None:
    """(factor, offset) from the student's mean and std to the teacher's; None if they are equal."""
    mean_s, std_s, mean_t, std_t = (
        torch.tensor(cfg.get(key, default), dtype=torch.float64).view(-1, 1, 1)
        for cfg in (student, teacher)
        for key, default in (('mean', [0.0]), ('std', [1.0]))
    )
    factor, offset = std_s / std_t, (mean_s - mean_t) / std_t
    if torch.allclose(factor, torch.ones_like(factor)) and torch.allclose(
        offset, torch.zeros_like(offset)
    ):
        return None
    return factor, offset
