"""The frozen teacher, kept outside the module tree of whoever learns from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from shd_vit.pairing import ModelOutput
from shd_vit.taps import AttentionTap, TapBank
from shd_vit.taps.bank import Reader


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

    def __call__(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> ModelOutput:
        """What a call, which runs the model and gives its logits, leaves for the losses."""
        return self.read({}, call, *args, **kwargs)

    @torch.no_grad()  # not inference_mode: its tensors cannot take part in the student's backward
    def read(
        self, readers: Mapping[int, Reader], call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> ModelOutput:
        """The same, of which taps of layers that have a reader go to it alone, as they come."""
        own: Any = nullcontext()
        outside: Any = nullcontext
        device = self._where_autocast_is_off()
        if device is not None:
            now = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
            own = torch.autocast(device, enabled=False)
            outside = partial(torch.autocast, device, *now)

        def with_gradients(reader: Reader) -> Reader:
            def read(tap: AttentionTap) -> None:
                with torch.enable_grad(), outside():
                    reader(tap)

            return read

        passed = {number: with_gradients(reader) for number, reader in readers.items()}
        with own:
            with self.bank.record(readers=passed):
                logits = call(*args, **kwargs)
            return ModelOutput.recorded(self.bank, logits)

    def _where_autocast_is_off(self) -> str | None:
        """The device of a model in half precision of another type, whose range may be larger."""
        weight = next((p for p in self.model.parameters() if not p.is_meta), None)
        if weight is None or weight.dtype.itemsize != 2:
            return None
        device = weight.device.type
        return None if torch.get_autocast_dtype(device) == weight.dtype else device

    def __deepcopy__(self, memo: dict) -> FrozenTeacher:
        return self
