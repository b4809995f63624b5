"""Which tokens of student and teacher are compared."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shd_vit.errors import ConfigError, UnsupportedAttention
from shd_vit.taps import Anatomy, AttentionTap, TokenTap

TOKENS = ('all', 'shared', 'patches')


class KeptTokens(NamedTuple):
    """What is compared of one model: some of its prefix tokens, and all patches.

    Attributes:
        prefix: Positions of those prefix tokens, in the order of comparison.
        num_prefix: How many prefix tokens the model has.
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
        teacher: Its tokens are put in the student's order.
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


def tokens_of_pair(
    student: TokenTap, teacher: TokenTap, loss: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tokens of two models that are compared one by one.

    Returns:
        Those of the student (B, N, E_s), of the teacher (B, N, E_t), without gradients, and which
        of them count, bool (B, N), or None for all. Padding is 0 in both.

    Raises:
        ConfigError: If the models have different numbers of prefix or patch tokens.
    """
    prefix_s, prefix_t = student.num_prefix, teacher.num_prefix
    patches_s, patches_t = student.x.shape[1] - prefix_s, teacher.x.shape[1] - prefix_t
    if (prefix_s, patches_s) != (prefix_t, patches_t):
        raise ConfigError(
            f'student has {prefix_s} prefix and {patches_s} patch tokens, teacher {prefix_t} and '
            f'{patches_t}: {loss} needs equal numbers (image size, patch size, prefix tokens)'
        )
    masks = [tap.mask for tap in (student, teacher) if tap.mask is not None]
    x_s, x_t = student.x, teacher.x.detach()
    if not masks:
        return x_s, x_t, None
    mask = torch.stack(masks).all(dim=0)
    return x_s.masked_fill(~mask[..., None], 0), x_t.masked_fill(~mask[..., None], 0), mask


def common_grid(student: TokenTap, teacher: TokenTap, loss: str) -> tuple[int, int]:
    """Rows and columns of the patches of both models.

    Raises:
        ConfigError: If they differ, are unknown, or some patches are padding.
    """
    for role, tap in (('student', student), ('teacher', teacher)):
        if tap.grid is None:
            raise ConfigError(
                f'how the {tap.patches.shape[1]} patch tokens of the {role} stand in rows and '
                f'columns is unknown: {loss} needs their grid'
            )
        if tap.mask is not None:
            raise ConfigError(
                f'the {role} has a mask of tokens that count: {loss} needs a whole grid of '
                'patches, without padding'
            )
    if student.grid is None or student.grid != teacher.grid:
        raise ConfigError(
            f'student has {student.grid} patch tokens (rows, columns), teacher {teacher.grid}: '
            f'{loss} needs equal grids'
        )
    return student.grid


def _listed(names: tuple[str, ...]) -> str:
    return ', '.join(names) or 'nothing'
