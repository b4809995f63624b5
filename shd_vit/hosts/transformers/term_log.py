"""Terms of a trainer's loss, averaged as Trainer averages the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class TermLog:
    """Sums of terms, a step's batches together, until they are logged.

    Args:
        trainer: Counts the steps, and has the other processes' sums.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._sums: dict[str, Tensor] = {}
        self._since = 0

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Take in the terms of a batch, each its part of the step's."""
        if not self._sums:
            self._since = self.trainer.state.global_step
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value

    def means(self) -> dict[str, float]:
        """The mean over steps and processes, and start anew."""
        sums, self._sums = self._sums, {}
        if not sums:
            return {}
        steps = max(self.trainer.state.global_step - self._since, 1)
        values = self.trainer.accelerator.gather(torch.stack([*sums.values()]).view(1, -1))
        return dict(zip(sums, (values.mean(0) / steps).tolist(), strict=True))
