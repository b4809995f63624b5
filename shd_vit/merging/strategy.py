"""How teacher heads become as many as the student's: a registry of strategies."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from shd_vit.errors import ConfigError
from shd_vit.functional import group_sizes, weigh_linear
from shd_vit.pairing import Pair


class Groups(NamedTuple):
    """Which of a teacher's heads form each head of the student.

    Attributes:
        sizes: How many, for each student head.
        order: (sum of sizes,), numbers of the teacher's heads from 0, group by group; heads that
            are not in it are dropped. None: all, as they stand.
    """

    sizes: tuple[int, ...]
    order: Tensor | None = None


class MergingStrategy(nn.Module):
    """Base of all strategies: groups of the teacher's heads, and how a group is weighed.

    A strategy that has to see training data first says so by ``is_settled``: then
    ``observe(tap, pair)`` is called for batches of teacher taps, and ``settle()`` at their end.

    Attributes:
        weigh: ``(outputs, gram) -> weights`` (B, k) of a group of k heads, in what
            :mod:`shd_vit.functional.merging` gives it. A plain function.
        uses_values: Whether ``weigh`` looks at what maps make of the values, or gets none.
    """

    weigh: Callable[..., Tensor] = staticmethod(weigh_linear)
    uses_values = True
    is_settled = True

    def bind(self, heads: dict[Pair, tuple[int, int]]) -> None:
        """Learn which layers there will be, with heads of student and teacher."""

    def groups(self, pair: Pair, heads: tuple[int, int]) -> Groups:
        """The groups of a pair of layers that have these heads, of student and teacher."""
        num_student, num_teacher = heads
        return Groups(group_sizes(num_teacher, num_student))


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
