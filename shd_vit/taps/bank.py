"""TapBank: record what attention layers and blocks compute, with hooks that do no arithmetic."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shd_vit.errors import ConfigError, UnsupportedAttention
from shd_vit.taps.anatomy import Anatomy
from shd_vit.taps.family import KeepOutput
from shd_vit.taps.tap import AttentionTap, Captured, TokenTap

TOKENS = 'tokens'
Key = tuple[int | str, int | str]  # (layer number or TOKENS, what of it)


class TapBank:
    """Records the attention inputs and block outputs of a model, one armed forward at a time.

    Every layer is checked before the first hook goes in. Hooks stay installed and idle::

        bank = TapBank(model)
        with bank.record():
            logits = model(images)
        attention, tokens = bank.collect()

    Args:
        model: The model.
        layers: Numbers of the attention layers to record, from 1. None records all.
        tokens: What block outputs to record: block numbers from 1, un-normed, and 'final' for the
            tokens after the final norm.
        role: How errors name the model.

    Raises:
        UnsupportedAttention: If a layer's maps cannot be reproduced exactly.
        ConfigError: If a number is outside the model.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[int] | None = None,
        *,
        tokens: Sequence[int | str] = (),
        role: str = 'model',
    ) -> None:
        self.anatomy = Anatomy(model, role)
        needs_anatomy = layers is None or layers or tokens
        depth = self.anatomy.depth if needs_anatomy else 0
        self.layers = list(range(1, depth + 1) if layers is None else layers)
        self.tokens = list(tokens)
        for number in [*self.layers, *(t for t in self.tokens if isinstance(t, int))]:
            if not 1 <= number <= depth:
                raise ConfigError(f'layer {number} of the {role} must be between 1 and {depth}')
        if tokens:
            self._num_prefix = self.anatomy.num_prefix_tokens
        points = {token: self._token_module(token) for token in self.tokens}

        self._store = _Store()
        self._handles = []
        for number in self.layers:
            layer = self.anatomy.layers[number - 1]
            self._handles += layer.family.attach(layer.attn, _Keep(self._store, number))
        for token, module in points.items():
            hook = KeepOutput(_Keep(self._store, TOKENS), token)
            self._handles.append(module.register_forward_hook(hook))

    def _token_module(self, token: int | str) -> nn.Module:
        if isinstance(token, int):
            return self.anatomy.blocks[token - 1]
        return self.anatomy.final_norm

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record the one forward pass inside. An exception disarms and empties the bank."""
        self._store.arm()
        try:
            yield
        except BaseException:
            self._store.pop()
            raise
        finally:
            self._store.armed = False

    def collect(self) -> Captured:
        """Hand over what was recorded, and forget it.

        Raises:
            RuntimeError: If a layer did not run since :meth:`record`.
        """
        kept = self._store.pop()
        try:
            attention = [self._read(number, kept) for number in self.layers]
            tokens = {t: self._tokens(kept[TOKENS, t]) for t in self.tokens}
        except KeyError as missing:
            raise RuntimeError(
                f'nothing was recorded at {missing}: the layer did not run inside record()'
            ) from None
        return Captured(attention, tokens)

    def _tokens(self, x: Tensor) -> TokenTap:
        patches = x.shape[1] - self._num_prefix
        side = math.isqrt(patches)
        return TokenTap(x, self._num_prefix, grid=(side, side) if side**2 == patches else None)

    def _read(self, number: int, kept: dict[Key, Any]) -> AttentionTap:
        name, attn, family = self.anatomy.layers[number - 1]
        outputs: dict[Any, Any] = {
            what: value for (where, what), value in kept.items() if where == number
        }
        if not outputs:
            raise KeyError(name)
        args, kwargs = outputs.pop('call', ((), {}))
        call = inspect.signature(type(attn).forward).bind_partial(attn, *args, **kwargs).arguments
        tap = family.read(attn, outputs, call)
        if torch.is_grad_enabled() and _learns(attn) and not tap.q.requires_grad:
            raise UnsupportedAttention(
                f'{name!r} of the {self.anatomy.role} ran without gradients, as in activation '
                'checkpointing with use_reentrant=True: its maps could not be trained. Use '
                'use_reentrant=False'
            )
        return tap

    def close(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


class _Store:
    """What hooks write to while armed. Copied along with the model, so copies stay apart."""

    def __init__(self) -> None:
        self.armed = False
        self.kept: dict[Key, Any] = {}

    def arm(self) -> None:
        if self.armed:
            raise RuntimeError('this TapBank is recording already')
        self.kept, self.armed = {}, True

    def keep(self, key: Key, what: Any) -> None:
        if key in self.kept:
            raise RuntimeError(f'{key} ran twice inside record(): record one forward at a time')
        self.kept[key] = what

    def pop(self) -> dict[Key, Any]:
        kept, self.kept = self.kept, {}
        return kept


class _Keep:
    """Records for a layer, or for all blocks. An object, so that a deepcopy has its own store."""

    def __init__(self, store: _Store, where: int | str) -> None:
        self.store = store
        self.where = where

    def __call__(self, name: int | str, value: Any) -> None:
        if self.store.armed:
            self.store.keep((self.where, name), value)


def _learns(attn: nn.Module) -> bool:
    return any(p.requires_grad for p in attn.parameters())
