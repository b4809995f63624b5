"""The predictions of a model that somebody else calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shd_vit.errors import ConfigError
from shd_vit.hosts.transformers.batch import Predictions, base_model

# In a config: logits are not what the head makes of hidden states, but something of it.
SCALINGS = (
    *('final_logit_softcapping', 'logit_scale', 'logits_scaling'),
    *('output_multiplier', 'lm_head_multiplier'),
)


class OutputTap:
    """Keeps what the one call of a model gives, while it listens.

    Args:
        model: Any. Hooks stay on it and on the backbone inside, idle.
        role: How errors name it.
        is_learning: Whether calls without gradients are passed over, as a trainer makes them
            for its metrics.
    """

    def __init__(self, model: nn.Module, role: str, is_learning: bool) -> None:
        self.inner, self.role, self.is_learning = base_model(model), role, is_learning
        backbone = getattr(self.inner, 'base_model', self.inner)
        self._hooks = {name: _Keep() for name in ('logits', 'last_hidden_state')}
        self._heard: dict[str, Any] = {}
        model.register_forward_hook(self._hooks['logits'])
        backbone.register_forward_hook(self._hooks['last_hidden_state'])

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, calls are heard.

        Raises:
            ConfigError: If there is more than one.
        """
        for hook in self._hooks.values():
            hook.outputs = []
        try:
            yield
            self._heard = {name: self._only(name, hook) for name, hook in self._hooks.items()}
        finally:
            for hook in self._hooks.values():
                hook.outputs = None

    def _only(self, name: str, hook: _Keep) -> Any:
        outputs = [x for x, with_grad in hook.outputs or () if with_grad or not self.is_learning]
        if len(outputs) > 1:
            raise ConfigError(
                f'the trainer ran the {self.role} {len(outputs)} times in one step: which of '
                'them is to be distilled is unknown'
            )
        return getattr(outputs[0], name, None) if outputs else None

    def logits(self, rows: Predictions | None) -> Tensor | None:
        """(R, C) of the call that was heard; None where no rows are asked for.

        Of a call that made no logits (TRL's SFTTrainer), the head is run on the hidden states of
        these rows alone.
        """
        heard, self._heard = self._heard, {}
        if rows is None:
            return None
        hidden = heard.get('last_hidden_state')
        if isinstance(heard.get('logits'), Tensor) or not isinstance(hidden, Tensor):
            return rows.take(heard.get('logits'), self.role)
        config = self.inner.config.get_text_config()
        if scaled := [name for name in SCALINGS if getattr(config, name, None) is not None]:
            raise ConfigError(
                f'{scaled[0]} of the {self.role} changes its logits, which this trainer does not '
                'make: leave losses on logits out, or use transformers.Trainer'
            )
        return self.inner.get_output_embeddings()(rows.take(hidden, self.role))


class _Keep:
    """Forward hook. A copy of the model has one of its own."""

    def __init__(self) -> None:
        self.outputs: list[tuple[Any, bool]] | None = None

    def __call__(self, module, args, output):
        if self.outputs is not None:
            self.outputs.append((output, torch.is_grad_enabled()))
