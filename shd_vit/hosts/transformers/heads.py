"""Some of a teacher's attention heads, cut out of its weights for a student of fewer heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from shd_vit.errors import ConfigError

_PROJECTIONS = ('q_proj', 'k_proj', 'v_proj', 'o_proj')


class ChosenHeads:
    """Cuts weights of one attention layer to the heads that are chosen.

    Args:
        heads: Of the teacher, from 1, one for each student head, in its order.
        student: Attention module of transformers.
        teacher: The same. Query heads share keys in groups; the key heads that are taken are those
            of the chosen query heads.

    Raises:
        ConfigError: If they have no such heads, or heads of other widths.
    """

    def __init__(self, heads: Sequence[int], student: Any, teacher: Any) -> None:
        for model, attn in (('student', student), ('teacher', teacher)):
            if missing := [name for name in _PROJECTIONS if not hasattr(attn, name)]:
                raise ConfigError(
                    f'heads={heads!r}: {type(attn).__name__} of the {model} has no {missing[0]}; '
                    f'heads are cut out of {", ".join(_PROJECTIONS)}'
                )
        counts = [_counts(attn) for attn in (student, teacher)]
        (count, key_count), (self.count, self.key_count) = counts
        are_known = all(type(h) is int and 1 <= h <= self.count for h in heads)
        if len(heads) != count or not are_known or len(set(heads)) < count:
            raise ConfigError(
                f'heads={heads!r} must be {count} different heads of the teacher, from 1 to '
                f'{self.count}'
            )
        widths = student.q_proj.out_features // count, teacher.q_proj.out_features // self.count
        if widths[0] != widths[1]:
            raise ConfigError(
                f'heads={heads!r}: a head of the student is {widths[0]} wide, one of the teacher '
                f'{widths[1]}: only heads of one width can be copied'
            )
        self.heads = [h - 1 for h in heads]
        self.key_heads = self._key_heads(count // key_count)

    def _key_heads(self, shared: int) -> list[int]:
        """Those of each run of ``shared`` student heads."""
        of_heads = [h // (self.count // self.key_count) for h in self.heads]
        groups = [of_heads[start : start + shared] for start in range(0, len(of_heads), shared)]
        for number, group in enumerate(groups):
            if len(set(group)) > 1:
                chosen = [h + 1 for h in self.heads[number * shared : (number + 1) * shared]]
                raise ConfigError(
                    f'heads {", ".join(map(str, chosen))} of the teacher do not share keys, but '
                    f'the {shared} heads of a group of the student do: choose them from one group'
                )
        return [group[0] for group in groups]

    def cut(self, name: str, weight: Tensor) -> Tensor:
        """The part of a parameter of the layer, by its name in there."""
        match name.split('.'):
            case ['q_proj', _]:
                return _rows(weight, self.count, self.heads)
            case ['k_proj' | 'v_proj', _]:
                return _rows(weight, self.key_count, self.key_heads)
            case ['o_proj', 'weight']:
                return _rows(weight.T, self.count, self.heads).T
        return weight


def _counts(attn: Any) -> tuple[int, int]:
    """Query heads and key heads."""
    config = attn.config
    count = config.num_attention_heads
    return count, getattr(config, 'num_key_value_heads', None) or count


def _rows(weight: Tensor, count: int, heads: list[int]) -> Tensor:
    return weight.unflatten(0, (count, -1))[heads].flatten(0, 1)
