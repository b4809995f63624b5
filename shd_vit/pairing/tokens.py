"""Which tokens of student and teacher are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shd_vit.errors import ConfigError, UnsupportedAttention
from shd_vit.taps import Anatomy, AttentionTap, TokenTap
from shd_vit.taps.tokens import PATCHES, Segment, segment_places

TOKENS = ('all', 'shared', 'patches')


class KeptTokens(NamedTuple):
    """Which segments of a model's tokens are compared.

    Attributes:
        segments: What the model has, in its order.
        order: Those that are compared, as places in ``segments``, in the order of comparison. None
            keeps every token as it is.
    """

    segments: tuple[Segment, ...] = ()
    order: tuple[int, ...] | None = None

    def of(self, tap: AttentionTap) -> AttentionTap:
        """The tap of these tokens alone."""
        if self.order is None or self.order == tuple(range(len(self.segments))):
            return tap
        places = segment_places(self.segments, tap.q.shape[2])
        tokens = [token for segment in self.order for token in places[segment]]
        return tap.select(torch.tensor(tokens, device=tap.q.device))


ALL_TOKENS = KeptTokens()


class TokenAlignment(NamedTuple):
    """How the tokens of two models are matched.

    Attributes:
        prefix: Names of the tokens before the patches that are compared; None if they are not
            known, or there are no patches, and all tokens are compared one by one.
        student: What is kept of the student.
        teacher: What is kept of the teacher.
    """

    prefix: tuple[str, ...] | None = None
    student: KeptTokens = ALL_TOKENS
    teacher: KeptTokens = ALL_TOKENS


def align_tokens(tokens: str, student: Anatomy, teacher: Anatomy, loss: str) -> TokenAlignment:
    """Match the tokens of two models by name.

    Args:
        tokens: 'all': every token of both. 'shared': the segments that both have, such as class
            token and patches. 'patches': those alone.
        student: Gives the order.
        teacher: Its tokens are put in the student's order.
        loss: Names the owner of ``tokens`` in errors.

    Raises:
        ConfigError: If 'all' would compare different tokens, or the others none.
        UnsupportedAttention: If 'shared' or 'patches' need tokens that are not known.
    """
    if tokens == 'all':
        hint = f"; {loss}.tokens='shared' compares those that both have, and the patches"
        return TokenAlignment(same_prefix(student, teacher, loss, hint))
    segments_s, segments_t = student.segments, teacher.segments
    if tokens == 'shared' and not (segments_s or segments_t):
        return TokenAlignment()  # words of two language models
    names: tuple[str | None, ...] = (PATCHES,)
    if tokens == 'shared':
        for model in (student, teacher):
            _check_named(model)
        theirs = [name for name, _ in segments_t]
        names = tuple(name for name, _ in segments_s if name in theirs)
    kept = []
    for model, segments in ((student, segments_s), (teacher, segments_t)):
        have = [name for name, _ in segments]
        if not names or not set(names) <= set(have):
            raise ConfigError(
                f'{loss}.tokens={tokens!r} finds nothing to compare: the {model.role} has '
                f'{_listed(have) if have else "tokens of one kind, without names"}'
            )
        kept.append(KeptTokens(segments, tuple(have.index(name) for name in names)))
    return TokenAlignment(tuple(name for name in names[:-1] if name is not None), *kept)


def _check_named(model: Anatomy) -> None:
    """Raise if the names of a model's tokens are not known."""
    if model.segments:
        model.prefix_tokens  # noqa: B018


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
        Those of the student (B, N, S), of the teacher (B, N, T), without gradients, and which of
        them count, bool (B, N), or None for all; S and T are widths. Padding is 0 in both.

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
    student_BNS, teacher_BNT = student.x, teacher.x.detach()
    if not masks:
        return student_BNS, teacher_BNT, None
    mask_BN = torch.stack(masks).all(dim=0)
    padding_BN1 = ~mask_BN[..., None]
    return (
        student_BNS.masked_fill(padding_BN1, 0),
        teacher_BNT.masked_fill(padding_BN1, 0),
        mask_BN,
    )


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


def _listed(names: Sequence[str | None]) -> str:
    return ', '.join(name or 'unknown' for name in names) or 'nothing'
