"""Which attention classes can be tapped, and how each is read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from shd_vit.errors import UnsupportedAttention
from shd_vit.taps.projection import PROJECTIONS, output_projection, read_weight, widths
from shd_vit.taps.tap import AttentionTap


class AttentionFamily:
    """How to tap one class of attention modules. Subclass it and register it for the class.

    ``outputs`` names the submodules whose outputs are recorded, where the module has them;
    ``read`` turns those, and the arguments of the attention's own ``forward``, into an
    :class:`AttentionTap`, whose ``out_proj`` the bank fills in from ``out_proj(attn)``. Nothing
    else is taken from inside attention, so that fused kernels stay on.
    """

    outputs: tuple[str, ...] = ()
    is_block = False  # of the model, with all that stands beside its attention

    def refusal(self, attn: nn.Module) -> str | None:
        """Why the maps of ``attn`` cannot be had exactly; None if they can."""
        return None

    def is_cross(self, attn: nn.Module) -> bool:
        """Whether it is cross-attention: no layer of its model, but named as left out."""
        return False

    def num_heads(self, attn: Any) -> int:
        """Number of attention heads."""
        return attn.num_heads

    def projection(self, attn: nn.Module) -> Any:
        """The output projection, by one of the names in ``PROJECTIONS``; None if it has none."""
        return output_projection(attn)

    def out_proj(self, attn: Any) -> Tensor:
        """(E, H * D), what the output projection multiplies by.

        Raises:
            UnsupportedAttention: If that cannot be had exactly.
        """
        projection = self.projection(attn)
        if projection is None:
            self.refuse(attn, f'it has no output projection {", ".join(PROJECTIONS)}')
        return read_weight(projection)

    def dim(self, attn: Any) -> int:
        """Width E of the output."""
        projection = self.projection(attn)
        found = None if projection is None else widths(projection)
        return self.out_proj(attn).shape[0] if found is None else found[1]

    def attach(self, attn: nn.Module, keep: Callable[[str, Any], None]) -> list[Any]:
        """Install what calls ``keep(name, value)`` in a forward pass.

        ``value`` is an output of the submodule ``name``, or the (args, kwargs) of a 'call'.

        Returns:
            Handles with ``remove()``.
        """
        submodules = {name: getattr(attn, name) for name in self.outputs}
        return [
            attn.register_forward_pre_hook(_KeepCall(keep), with_kwargs=True),
            *(
                module.register_forward_hook(KeepOutput(keep, name))
                for name, module in submodules.items()
                if module is not None
            ),
        ]

    def recording(self, attn: nn.Module) -> AbstractContextManager[None]:
        """Entered while a bank records: what must be switched on for it, and off again."""
        return nullcontext()

    def read(
        self, attn: nn.Module, outputs: dict[str, Tensor], call: dict[str, Any]
    ) -> AttentionTap:
        """The tap, from recorded outputs by submodule name and the call's bound arguments.

        Raises:
            UnsupportedAttention: If this call's maps cannot be had exactly.
        """
        raise NotImplementedError(f'{type(self).__name__} must define read()')

    def refuse(self, attn: nn.Module, reason: str) -> NoReturn:
        """Say in :meth:`read` that maps cannot be had exactly."""
        raise UnsupportedAttention(f'{_path(type(attn))}: {reason}')


def bound_arguments(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a module's call, by the names of its class's ``forward``."""
    # torch.compile traces through, and warns of, what is cached.
    read = inspect.signature if torch.compiler.is_compiling() else _signature
    return read(type(module).forward).bind_partial(module, *args, **kwargs).arguments


_signature = cache(inspect.signature)  # which takes longer than all else that is done to a tap


class KeepOutput:
    """Forward hook. An object, not a closure: deepcopy gives the copy a recorder of its own."""

    def __init__(self, keep: Callable[[Any, Any], None], name: int | str) -> None:
        self.keep = keep
        self.name = name

    def __call__(self, module, args, output):
        self.keep(self.name, output)


class _KeepCall:
    """Forward pre-hook with keyword arguments: keeps what the module was called with."""

    def __init__(self, keep: Callable[[str, Any], None]) -> None:
        self.keep = keep

    def __call__(self, module, args, kwargs):
        self.keep('call', (args, kwargs))


class TapRegistry:
    """Attention families by the dotted path of the class they read.

    Paths, not classes, so that the package imports none of the libraries it supports.
    """

    def __init__(self) -> None:
        self._families: dict[str, AttentionFamily] = {}
        self._conditions: list[tuple[Callable[[nn.Module], bool], AttentionFamily]] = []

    def register(self, *classes: str | type) -> Callable[[type], type]:
        """Class decorator: the decorated family reads these classes and their subclasses.

        Args:
            classes: Attention classes, or their dotted paths.
        """

        def add(family: type) -> type:
            for cls in classes:
                self._families[cls if isinstance(cls, str) else _path(cls)] = family()
            return family

        return add

    def register_where(self, condition: Callable[[nn.Module], bool]) -> Callable[[type], type]:
        """Class decorator: the decorated family reads modules of no registered class for which
        ``condition(module)`` holds."""

        def add(family: type) -> type:
            self._conditions.append((condition, family()))
            return family

        return add

    def find(self, name: str, attn: nn.Module) -> AttentionFamily | None:
        """The family of a module, by its class along the MRO; None if it is not attention.

        Args:
            name: The module's name in its model, for errors.
            attn: Any module.

        Raises:
            UnsupportedAttention: If the family refuses this module, or if a subclass that is not
                registered itself overrides ``forward``.
        """
        cls: Any
        for cls in type(attn).__mro__:
            family = self._families.get(_path(cls))
            if family is None:
                continue
            reason = family.refusal(attn)
            if type(attn).forward is not cls.forward:
                reason = f'it overrides forward() of {_path(cls)}; register a family of its own'
            return _unless(reason, family, name, attn)
        for condition, family in self._conditions:
            if condition(attn):
                return _unless(family.refusal(attn), family, name, attn)
        return None


def _unless(
    reason: str | None, family: AttentionFamily, name: str, attn: nn.Module
) -> AttentionFamily:
    if reason:
        raise UnsupportedAttention(f'{_path(type(attn))} at {name!r}: {reason}')
    return family


def _path(cls: type) -> str:
    return f'{cls.__module__}.{cls.__qualname__}'


ATTENTION_TAPS = TapRegistry()
