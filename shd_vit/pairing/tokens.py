"""Which tokens of student and teacher are compared."""

from __future__ import annotations

from typing import NamedTuple

import torch

from shd_vit.errors import ConfigError, UnsupportedAttention
from shd_vit.taps import Anatomy, AttentionTap

TOKENS = ('all', 'shared', 'patches')


class KeptTokens(NamedTuple):
    """What is compared of one model: some of its prefix tokens, and all patches.

    Attributes:
        prefix: Positions of those prefix tokens, in the order of comparison.
        num_prefix: Of how many.
    """

    prefix: tuple[int, ...] = ()
    num_prefix: int = 0

    def of(self, tap: AttentionTap) -> AttentionTap:
        """The tap of these tokens alone."""
        if self.prefix == tuple(range(self.num_prefix)):
            return tap
        patches = range(self.num_prefix, tap.q.shape[2])
        return tap.select(torch.tensor([*self.prefix, *patches], device=tap.q.device))


ALL_TOKENS = KeptTokens()


class TokenAlignment(NamedTuple):
    """How the tokens of two models are matched.

    Attributes:
        prefix: Names of the prefix tokens that are compared; None if they are not known, and all
            tokens are compared one by one.
        student, teacher: What is kept of each.
    """

    prefix: tuple[str, ...] | None = None
    student: KeptTokens = ALL_TOKENS
    teacher: KeptTokens = ALL_TOKENS


def align_tokens(tokens: str, student: Anatomy, teacher: Anatomy, loss: str) -> TokenAlignment:
    """Match the tokens of two models by name.

    Args:
        tokens: 'all': every token of both. 'shared': the prefix tokens that both have, and all
            patches. 'patches': those alone.
        student: Gives the order.
        teacher: The other.
        loss: Names the owner of ``tokens`` in errors.

    Raises:
        ConfigError: If 'all' would compare different tokens.
        UnsupportedAttention: If the others need prefix tokens that are not known.
    """
    if tokens == 'all':
        hint = f"; {loss}.tokens='shared' compares those that both have, and the patches"
        return TokenAlignment(same_prefix(student, teacher, loss, hint))
    names: tuple[str, ...] = ()
    if tokens == 'shared':
        names = tuple(name for name in student.prefix_tokens if name in teacher.prefix_tokens)
    kept = (
        KeptTokens(
            tuple(model.prefix_tokens.index(name) for name in names), model.num_prefix_tokens
        )
        for model in (student, teacher)
    )
    return TokenAlignment(names, *kept)


def same_prefix(
    student: Anatomy, teacher: Anatomy, loss: str, hint: str = ''
) -> tuple[str, ...] | None:
    """Names of the prefix tokens that two models have in common; None if not known of both.

    Raises:
        ConfigError: If they are known, and not the same.
    """
    try:
        prefix_s, prefix_t = student.prefix_tokens, teacher.prefix_tokens
    except UnsupportedAttention:
        return None
    if prefix_s != prefix_t:
        raise ConfigError(
            f'before its patches the student has {_listed(prefix_s)}, the teacher '
            f'{_listed(prefix_t)}: {loss} compares tokens one by one{hint}'
        )
    return prefix_s


def _listed(names: tuple[str, ...]) -> str:
    return ', '.join(names) or 'nothing'
