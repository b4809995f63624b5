"""Attention maps of one image: teacher, squeezed, and students beside them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.functional import (
    SqueezedHeads,
    attention_maps,
    merge_neighbours,
    merge_passes,
    squeeze_heads,
)
from shd_vit.taps import AttentionTap

Alpha = tuple[float, float]  # as used, clamped to [0, 1]; before clamping


class Merged(NamedTuple):
    """A head of the teacher, or what several were merged into.

    Attributes:
        name: '3', '1+2' or '(1+2)+(3+4)'.
        heads: The teacher's heads in it, from 1.
    """

    name: str
    heads: tuple[int, ...]

    def __add__(self, other: Merged) -> Merged:  # type: ignore[override]
        names = (f'({h.name})' if len(h.heads) > 1 else h.name for h in (self, other))
        return Merged('+'.join(names), self.heads + other.heads)


def merged_heads(num_heads: int, target: int) -> tuple[list[list[Merged]], list[Merged]]:
    """The order in which :func:`shd_vit.squeeze_heads` merges.

    Args:
        num_heads: The teacher's.
        target: Heads to leave, from 1.

    Returns:
        What each pass makes, in the order of ``alphas``; and the heads that are left.
    """
    left = [Merged(str(head), (head,)) for head in range(1, num_heads + 1)]
    passes = []
    for merges in merge_passes(num_heads, target):
        left = merge_neighbours(left, merges)
        passes.append(left[:merges])
    return passes, left


class LayerMaps(NamedTuple):
    """One layer's maps of one image, on the CPU.

    Attributes:
        layers: Numbers of the student's layer and of its teacher's.
        temperature: T_a of all maps.
        teacher: (Ht, N, N).
        squeezed: (Hs, N, N).
        merged: Which teacher heads each squeezed one is made of.
        alphas: Of each squeezed head, its weights in the order of the passes.
        students: (Hs, N, N) by the student's name.
        kl: (Hs,) by the student's name: KL(squeezed || student), mean over query rows.
    """

    layers: tuple[int, int]
    temperature: float
    teacher: Tensor
    squeezed: Tensor
    merged: list[Merged]
    alphas: list[list[Alpha]]
    students: dict[str, Tensor]
    kl: dict[str, Tensor]


def tap_maps(tap: AttentionTap, temperature: float) -> Tensor:
    """(B, H, N, N)"""
    return attention_maps(tap.q, tap.k, tap.scale, temperature, tap.bias, tap.mask)


def squeeze_tap(tap: AttentionTap, num_heads: int, temperature: float) -> SqueezedHeads:
    """A teacher's maps at T_a, merged into ``num_heads``, as SHDLoss does."""
    return squeeze_heads(tap_maps(tap, temperature), tap.v, tap.out_proj, num_heads)


def layer_maps(
    layers: tuple[int, int],
    teacher: AttentionTap,
    students: dict[str, AttentionTap],
    num_heads: int,
    temperature: float,
) -> LayerMaps:
    """All maps of a layer from the taps of one image.

    Args:
        layers: Numbers of the student's layer and of its teacher's.
        teacher: Tap of the teacher layer.
        students: Taps by name, of any number of students.
        num_heads: The students'.
        temperature: T_a.

    Raises:
        ConfigError: If the layer has a map a window, or token counts differ.
    """
    for role, tap in (('teacher', teacher), *(('student', tap) for tap in students.values())):
        if len(tap.q) != 1:
            raise ConfigError(
                f'layer {layers[role == "teacher"]} of the {role} attends within {len(tap.q)} '
                'windows: expected one map for the image'
            )
        if tap.q.shape[2] != teacher.q.shape[2]:
            raise ConfigError(
                f'student layer {layers[0]} sees {tap.q.shape[2]} tokens, teacher layer '
                f'{layers[1]} sees {teacher.q.shape[2]}: expected equal token counts'
            )
    result = squeeze_tap(teacher, num_heads, temperature)
    passes, merged = merged_heads(teacher.q.shape[1], num_heads)
    squeezed = result.maps[0].cpu()
    maps = {name: tap_maps(tap, temperature)[0].cpu() for name, tap in students.items()}
    return LayerMaps(
        layers,
        temperature,
        tap_maps(teacher, temperature)[0].cpu(),
        squeezed,
        merged,
        [_alphas_of(head, passes, result) for head in merged],
        maps,
        {name: map_kl(squeezed, student) for name, student in maps.items()},
    )


def map_kl(target: Tensor, maps: Tensor) -> Tensor:
    """KL(target || maps) of each head (H, N, N), the mean over query rows: (H,)."""
    tiny = torch.finfo(maps.dtype).tiny  # 0 log 0 = 0
    log_ratio = target.clamp(min=tiny).log() - maps.clamp(min=tiny).log()
    return (target * log_ratio).sum(-1).mean(-1)


def _alphas_of(head: Merged, passes: list[list[Merged]], result: SqueezedHeads) -> list[Alpha]:
    return [
        (alpha.item(), raw.item())
        for made, alphas, raws in zip(passes, result.alphas, result.raw_alphas, strict=True)
        for merge, alpha, raw in zip(made, alphas[0], raws[0], strict=True)
        if set(merge.heads) <= set(head.heads)
    ]
