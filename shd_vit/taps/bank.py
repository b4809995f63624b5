"""TapBank: record what attention layers and blocks compute, with hooks that do no arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from shd_vit.errors import ConfigError, UnsupportedAttention
from shd_vit.taps.anatomy import Anatomy, Layer
from shd_vit.taps.block_outputs import BlockOutputs
from shd_vit.taps.family import AttentionFamily, bound_arguments
from shd_vit.taps.projection import check_projection
from shd_vit.taps.store import Enter, Keep, Recording, Store
from shd_vit.taps.tap import NO_WEIGHT, AttentionTap, Captured

Reader = Callable[[AttentionTap], None]


class TapBank:
    """Records the attention inputs and block outputs of a model, one armed forward at a time.

    Every layer is checked before the first hook goes in. Hooks stay installed and idle::

        bank = TapBank(model)
        with bank.record():
            logits = model(images)
        attention, tokens = bank.collect()

    Args:
        model: The model, or its anatomy, which then gives the role as well.
        layers: Numbers of the attention layers to record, from 1. None records all.
        tokens: What block outputs to record: block numbers from 1, un-normed, and 'final' for the
            tokens after the final norm.
        role: How errors name the model.
        out_proj: Whether taps carry the weight of the output projection. False leaves that empty,
            as for a student, of which no loss reads it: it may then be sharded.

    Raises:
        UnsupportedAttention: If a layer's maps, its output projection or tokens cannot be had
            exactly.
        ConfigError: If a number is outside the model.
    """

    def __init__(
        self,
        model: nn.Module | Anatomy,
        layers: Sequence[int] | None = None,
        *,
        tokens: Sequence[int | str] = (),
        role: str = 'model',
        out_proj: bool = True,
    ) -> None:
        self.anatomy = model if isinstance(model, Anatomy) else Anatomy(model, role)
        depth = self.anatomy.depth if layers is None or layers or tokens else 0
        self.layers = list(range(1, depth + 1) if layers is None else layers)
        self.tokens = list(tokens)
        for number in [*self.layers, *(t for t in self.tokens if isinstance(t, int))]:
            if not 1 <= number <= depth:
                raise ConfigError(
                    f'layer {number} of the {self.anatomy.role} must be between 1 and {depth}'
                )
        self._tapped = [self.anatomy.layers[number - 1] for number in self.layers]
        self._has_out_proj = out_proj
        if out_proj:
            for layer in self._tapped:
                self._check_projection(layer)
        self._outputs = BlockOutputs(self.anatomy, self.tokens)

        self._store = Store()
        self._handles: list[Any] = self._outputs.attach(self._store)
        for number, layer in zip(self.layers, self._tapped, strict=True):
            self._handles += layer.family.attach(layer.attn, Keep(self._store, number))
        for number, module in enumerate(self.anatomy.callers if depth else ()):
            enter = Enter(self._store, number)
            self._handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))

    def _check_projection(self, layer: Layer) -> None:
        projection = layer.family.projection(layer.attn)
        try:
            weight = layer.family.out_proj(layer.attn)
            if projection is not None:
                check_projection(projection, weight)
        except UnsupportedAttention as error:
            raise UnsupportedAttention(
                f'{layer.name!r} of the {self.anatomy.role}: {error}'
            ) from None

    @contextmanager
    def record(
        self, first: bool = False, readers: Mapping[int, Reader] | None = None
    ) -> Iterator[None]:
        """Record the one forward pass inside. An exception disarms and empties the bank.

        Args:
            first: Record the first of several, instead of refusing the second.
            readers: By layer number, what is called with its tap when the layer has run. That tap
                is then forgotten, so that not all are in memory at once; only in code that is
                compiled are readers not called, and taps left for :meth:`collect`.
        """
        self._store.arm(first)
        try:
            with ExitStack() as stack:
                for number, layer in zip(self.layers, self._tapped, strict=True):
                    if type(layer.family).recording is not AttentionFamily.recording:
                        stack.enter_context(layer.family.recording(layer.attn))
                    if readers and number in readers:
                        pass_on = partial(self._pass_on, number, layer, readers[number])
                        hook = layer.attn.register_forward_hook(pass_on)
                        stack.callback(hook.remove)
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
            UnsupportedAttention: If this call's maps or tokens cannot be had exactly.
        """
        recording = self._store.pop()
        try:
            attention: list[Any] = [
                None if number in recording.taken else self._read(number, layer, recording)
                for number, layer in zip(self.layers, self._tapped, strict=True)
            ]
            tokens = self._outputs.read(recording)
        except KeyError as missing:
            raise RuntimeError(
                f'nothing was recorded at {missing}: the layer did not run inside record()'
                f'{_compiled_hint(self.anatomy.model)}'
            ) from None
        return Captured(attention, tokens)

    def _pass_on(self, number: int, layer: Layer, reader: Reader, *_: Any) -> None:
        if torch.compiler.is_compiling() or not self._store.armed:
            return
        recording = self._store.take(number)
        if recording.kept:
            reader(self._read(number, layer, recording))

    def _read(self, number: int, layer: Layer, recording: Recording) -> AttentionTap:
        name, attn, family = layer
        outputs = recording.of(number)
        if not outputs:
            raise KeyError(name)
        call = bound_arguments(attn, *outputs.pop('call', ((), {})))
        tap = family.read(attn, outputs, call)
        if recording.with_grad and not tap.q.requires_grad and _learning(attn):
            self._refuse_untrained(layer, recording.layers_with_grad[number])
        return tap._replace(out_proj=family.out_proj(attn) if self._has_out_proj else NO_WEIGHT)

    def _refuse_untrained(self, layer: Layer, with_grad: bool) -> None:
        where = f'{layer.name!r} of the {self.anatomy.role}'
        if not with_grad:
            raise UnsupportedAttention(
                f'{where} ran without gradients, as in activation checkpointing with '
                'use_reentrant=True: its maps could not be trained. Use use_reentrant=False'
            )
        raise UnsupportedAttention(
            f'{where} learns in {", ".join(_learning(layer.attn)[:4])}, on which its queries and '
            'keys do not depend: what they are computed from is frozen, so its maps could not be '
            'trained. Let its query and key projections learn, or leave the layer out'
        )

    def close(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _learning(attn: nn.Module) -> list[str]:
    """Names of the parameters that learn."""
    return [name for name, parameter in attn.named_parameters() if parameter.requires_grad]


def _compiled_hint(model: nn.Module) -> str:
    """What to do if a model's compiled code knows no hooks."""
    is_compiled = any(
        m._compiled_call_impl is not None or isinstance(m, torch._dynamo.OptimizedModule)
        for m in model.modules()
    )
    state = 'it is compiled; if' if is_compiled else 'if the model is compiled and'
    return (
        f' ({state} it was called before the taps went in, its compiled code knows nothing of '
        'them: build the taps before the first call, or call torch.compiler.reset())'
    )
