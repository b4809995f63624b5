"""Which student layer learns from which teacher layer."""

from __future__ import annotations

from collections.abc import Sequence

from shd_vit.errors import ConfigError
from shd_vit.taps import Anatomy, AttentionTap

Pair = tuple[int, int]  # a student layer and a teacher layer, from 1
Pairs = list[Pair]


def uniform_pairs(student_depth: int, teacher_depth: int) -> Pairs:
    """(l, ceil(l * L_t / L_s)) for every student layer l, from 1."""
    return [
        (layer, -(-layer * teacher_depth // student_depth)) for layer in range(1, student_depth + 1)
    ]


def check_layers(layers: object, loss: str) -> None:
    """Refuse what :func:`layer_pairs` cannot read; ``loss`` names its owner in the error.

    Raises:
        ConfigError: If ``layers`` is not 'uniform', 'last' or a list of pairs of numbers.
    """
    is_known = isinstance(layers, str) and layers in ('uniform', 'last')
    if not is_known and not _are_pairs(layers):
        raise ConfigError(
            f"{loss}.layers={layers!r} must be 'uniform', 'last' or a list of (student, teacher) "
            'pairs'
        )


def layer_pairs(
    layers: str | Sequence[tuple[int, int]], student: Anatomy, teacher: Anatomy, loss: str
) -> Pairs:
    """(student, teacher) layers, from 1.

    Args:
        layers: 'uniform': student layer l of L_s learns from teacher layer ceil(l L_t / L_s), so
            that last learns from last; in a hierarchical model, stage by stage. 'last': the last
            from the last alone. Or the pairs.
        student: Has the first layer of each pair.
        teacher: Has the second.
        loss: Names the owner of ``layers`` in errors.

    Raises:
        ConfigError: If a model has no such layer, or stages cannot be paired.
    """
    if layers == 'uniform':
        return _stage_pairs(student, teacher, loss)
    if layers == 'last':
        return [(student.depth, teacher.depth)]
    assert not isinstance(layers, str)
    pairs: Pairs = [(s, t) for s, t in layers]
    for pair in pairs:
        for number, model in zip(pair, (student, teacher), strict=True):
            if not 1 <= number <= model.depth:
                raise ConfigError(
                    f'{loss}.layers names layer {number} of the {model.role}, which has '
                    f'layers 1 to {model.depth}'
                )
    return pairs


def check_attended_tokens(
    student: AttentionTap, teacher: AttentionTap, pair: Pair, loss: str
) -> None:
    """Refuse layers whose maps are of different sizes, or of different windows.

    Raises:
        ConfigError: Naming both token counts, or what else differs.
    """
    tokens_s, tokens_t = student.q.shape[2], teacher.q.shape[2]
    if tokens_s != tokens_t:
        raise ConfigError(
            f'student layer {pair[0]} sees {tokens_s} tokens, teacher layer {pair[1]} sees '
            f'{tokens_t}: {loss} needs equal token counts (image size, patch size, prefix tokens)'
        )
    if len(student.q) != len(teacher.q) or student.is_shifted != teacher.is_shifted:
        windows = [
            f'{len(tap.q)} {"shifted " if tap.is_shifted else ""}windows'
            for tap in (student, teacher)
        ]
        raise ConfigError(
            f'a batch has {windows[0]} in student layer {pair[0]}, {windows[1]} in teacher layer '
            f'{pair[1]}: {loss} needs windows of the same patches; choose {loss}.layers'
        )


def _stage_pairs(student: Anatomy, teacher: Anatomy, loss: str) -> Pairs:
    if len(student.stages) != len(teacher.stages):
        have = [
            f'the {model.role} has {len(model.stages)} of {list(map(len, model.stages))} layers'
            for model in (student, teacher)
        ]
        raise ConfigError(
            f"{loss}.layers='uniform' pairs stage by stage, but {' and '.join(have)}: write "
            'layers=[(student, teacher), ...]'
        )
    return [
        (stage_s[s - 1], stage_t[t - 1])
        for stage_s, stage_t in zip(student.stages, teacher.stages, strict=True)
        for s, t in uniform_pairs(len(stage_s), len(stage_t))
    ]


def _are_pairs(layers: object) -> bool:
    return (
        isinstance(layers, Sequence)
        and not isinstance(layers, str)
        and len(layers) > 0
        and all(
            isinstance(pair, Sequence) and len(pair) == 2 and all(type(n) is int for n in pair)
            for pair in layers
        )
    )
