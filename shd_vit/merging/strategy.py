"""How teacher heads become as many as the student's: a registry of strategies."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from shd_vit.errors import ConfigError
from shd_vit.pairing import Pair
from shd_vit.taps import AttentionTap


class MergingStrategy(nn.Module):
    """Base of all strategies: first the heads are arranged, then neighbours are merged.

    A strategy that has to see training data first says so by ``is_settled``: then
    ``observe(tap, pair)`` is called for batches of teacher taps, and ``settle()`` at their end.

    Attributes:
        merge: ``(maps, value, out_proj, num_heads, gram) -> maps`` (B, num_heads, N, N), with the
            arguments of :func:`shd_vit.functional.squeeze_heads`. A plain function.
        uses_values: Whether ``merge`` looks at ``value``, ``out_proj`` and ``gram``, or gets None.
    """

    merge: Callable[..., Tensor]
    uses_values = True
    is_settled = True

    def bind(self, heads: dict[Pair, tuple[int, int]]) -> None:
        """Learn which layers there will be, with heads of student and teacher."""

    def arrange(self, tap: AttentionTap, pair: Pair) -> AttentionTap:
        """The teacher's heads in the order in which they are to be merged, or some of them."""
        return tap


class _Registry:
    """Strategies by name."""

    def __init__(self) -> None:
        self.strategies: dict[str, type[MergingStrategy]] = {}

    def register(self, name: str) -> Callable[[type], type]:
        """Decorate a :class:`MergingStrategy` with the name by which configs ask for it."""

        def decorate(cls: type) -> type:
            if name in self.strategies:
                raise ValueError(f'a merging strategy named {name!r} is registered already')
            self.strategies[name] = cls
            return cls

        return decorate

    def build(self, strategy: str | dict) -> MergingStrategy:
        """A strategy from its name, or from ``dict(type=name, ...)``.

        Raises:
            ConfigError: If there is no such strategy, or it does not take these arguments.
        """
        options = dict(strategy) if isinstance(strategy, dict) else dict(type=strategy)
        name = options.pop('type', None)
        cls = self.strategies.get(name) if isinstance(name, str) else None
        if cls is None:
            known = ', '.join(repr(name) for name in sorted(self.strategies))
            raise ConfigError(f'strategy={strategy!r} is unknown; allowed are {known}')
        try:
            return cls(**options)
        except TypeError as error:
            raise ConfigError(f'strategy={strategy!r}: {error}') from None


MERGING_STRATEGIES = _Registry()
