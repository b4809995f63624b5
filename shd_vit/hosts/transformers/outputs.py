"""The output of a model that somebody else calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from shd_vit.errors import ConfigError


class OutputTap:
    """Keeps what the one call of a model gives, while it listens.

    Args:
        model: Any. The hook stays, idle.
        role: How errors name it.
        is_learning: Whether calls without gradients are passed over, as a trainer makes them
            for its metrics.
    """

    def __init__(self, model: nn.Module, role: str, is_learning: bool) -> None:
        self.role = role
        self.is_learning = is_learning
        self._hook = _Keep()
        self._heard: list[Any] = []
        model.register_forward_hook(self._hook)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, calls are heard."""
        outputs: list[tuple[Any, bool]] = []
        self._hook.outputs = outputs
        try:
            yield
        finally:
            self._hook.outputs = None
        self._heard = [output for output, graded in outputs if graded or not self.is_learning]
        if len(self._heard) > 1:
            raise ConfigError(
                f'the trainer ran the {self.role} {len(self._heard)} times in one step: which of '
                'them is to be distilled is unknown'
            )

    def logits(self) -> Any:
        """Logits of the call that was heard, and forget it; None if it gave none, or was none."""
        heard, self._heard = self._heard, []
        return getattr(heard[0], 'logits', None) if heard else None


class _Keep:
    """Forward hook. A copy of the model has one of its own."""

    def __init__(self) -> None:
        self.outputs: list[tuple[Any, bool]] | None = None

    def __call__(self, module, args, output):
        if self.outputs is not None:
            self.outputs.append((output, torch.is_grad_enabled()))
