"""What hooks write to: objects, not closures, so that a deepcopy of a model has its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

CALLS = 'calls'
Key = tuple[int | str, int | str]  # (layer number, or what is recorded, and what of it)


class Recording(NamedTuple):
    """What one forward pass left.

    Attributes:
        kept: What hooks were given, in the order in which they ran.
        with_grad: Whether the model was called with gradients enabled.
        layers_with_grad: Whether gradients were on when each layer ran, by its number.
        taken: Layers whose part was taken before the pass ended.
    """

    kept: dict[Key, Any]
    with_grad: bool
    layers_with_grad: dict[int | str, bool]
    taken: set[int | str]

    def of(self, where: int | str) -> dict[Any, Any]:
        """What was kept under ``where``, by its second key."""
        return {what: value for (at, what), value in self.kept.items() if at == where}


class Store:
    """Keeps what hooks hand over while armed."""

    def __init__(self) -> None:
        self.armed = False
        self.first = False
        self._empty()

    def _empty(self) -> None:
        self.kept: dict[Key, Any] = {}
        self.with_grad: list[bool] = []  # at record(), then at calls of modules around the blocks
        self.layers_with_grad: dict[int | str, bool] = {}
        self.taken: set[int | str] = set()

    def arm(self, first: bool) -> None:
        if self.armed:
            raise RuntimeError('this TapBank is recording already')
        self._empty()
        self.armed, self.first = True, first
        self.with_grad.append(torch.is_grad_enabled())

    def enter(self, number: int, call: Any) -> None:
        """A module around the blocks is called; a second time, with another forward pass."""
        if self.first and (CALLS, number) in self.kept:
            self.armed = False
        else:
            self.kept[CALLS, number] = call
            self.with_grad.append(torch.is_grad_enabled())

    def keep(self, key: Key, what: Any, again: bool = False) -> None:
        if again or (key not in self.kept and key[0] not in self.taken):
            self.kept[key] = what
            self.layers_with_grad[key[0]] = torch.is_grad_enabled()
        elif not self.first:
            raise RuntimeError(
                f'{key} ran twice inside record(): record one forward at a time, or the first of '
                'them with record(first=True)'
            )

    def take(self, where: int | str) -> Recording:
        """What a layer has left, which is forgotten here; its next run in this pass is refused."""
        kept = {key: self.kept.pop(key) for key in list(self.kept) if key[0] == where}
        if kept:
            self.taken.add(where)
        return self._recording(kept)

    def pop(self) -> Recording:
        recording = self._recording(self.kept)
        self._empty()
        return recording

    def _recording(self, kept: dict[Key, Any]) -> Recording:
        called = self.with_grad[:2]  # the outermost module is called first
        return Recording(kept, all(called), self.layers_with_grad, self.taken)


class Keep:
    """Records for a layer, or for all blocks.

    Args:
        store: Where to.
        where: First part of the key.
        again: Whether the last of several values is kept, instead of refusing the second.
    """

    def __init__(self, store: Store, where: int | str, again: bool = False) -> None:
        self.store = store
        self.where = where
        self.again = again

    def __call__(self, name: int | str, value: Any) -> None:
        if self.store.armed:
            self.store.keep((self.where, name), value, self.again)


class Enter:
    """Forward pre-hook with keyword arguments, of a module around the blocks."""

    def __init__(self, store: Store, number: int) -> None:
        self.store = store
        self.number = number

    def __call__(self, module, args, kwargs):
        if self.store.armed:
            self.store.enter(self.number, (args, kwargs))
