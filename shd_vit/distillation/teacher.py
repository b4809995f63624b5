"""The frozen teacher, kept outside the module tree of whoever learns from it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from shd_vit.pairing import ModelOutput
from shd_vit.taps import TapBank


class FrozenTeacher:
    """A model that is only looked at: no gradient, always in eval mode.

    It is not an ``nn.Module``, so the student's state dict, optimiser, DDP buckets and ``train()``
    never reach it, and copies of the student (EMA) share it instead of copying it.

    Args:
        model: The model.
        bank: Taps on it.
    """

    def __init__(self, model: nn.Module, bank: TapBank) -> None:
        self.model = model.requires_grad_(False).eval()
        self.bank = bank

    @torch.no_grad()  # not inference_mode: its tensors cannot take part in the student's backward
    def __call__(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> ModelOutput:
        """What a call, which runs the model and gives its logits, leaves for the losses."""
        with self._own_precision():
            return ModelOutput.of(self.bank, call, *args, **kwargs)

    def _own_precision(self) -> torch.autocast | nullcontext:
        """Autocast off for a model in half precision of another type, whose range may be larger."""
        weight = next(self.model.parameters(), None)
        if weight is None or weight.dtype.itemsize != 2:
            return nullcontext()
        device = weight.device.type
        is_own = torch.get_autocast_dtype(device) == weight.dtype
        return nullcontext() if is_own else torch.autocast(device, enabled=False)

    def __deepcopy__(self, memo: dict) -> FrozenTeacher:
        return self
