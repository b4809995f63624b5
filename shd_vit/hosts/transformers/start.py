"""A student of transformers that starts from layers, and heads, of its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from shd_vit.hosts.transformers.batch import base_model
from shd_vit.hosts.transformers.heads import ChosenHeads
from shd_vit.pairing import start
from shd_vit.taps.anatomy import Layer


def initialise_from_teacher(
    student: Any,
    teacher: Any,
    layers: str | Sequence[tuple[int, int]] = 'uniform',
    heads: Sequence[int] | None = None,
) -> list[str]:
    """:func:`shd_vit.pairing.start.initialise_from_teacher`, of some of the teacher's heads.

    Args:
        student: A model of transformers.
        teacher: Of the same architecture.
        layers: 'uniform', 'last' or (student, teacher) blocks, counted from 1.
        heads: Of the teacher, counted from 1, that a student of fewer heads gets in each block, in
            this order. With grouped key heads, the key heads go with them. None: all.

    Returns:
        Names of the student's parameters that were copied.

    Raises:
        ConfigError: If a parameter has no counterpart of its shape, naming the first; or if heads
            cannot be chosen so.
    """
    student, teacher = base_model(student), base_model(teacher)
    if heads is None:
        return start.initialise_from_teacher(student, teacher, layers)

    def cut(ours: Layer, theirs: Layer) -> Mapping[str, Tensor]:
        chosen, inner = ChosenHeads(heads, ours.attn, theirs.attn), f'{_inside(theirs)}.'
        block = teacher.get_submodule(theirs.block_name)
        return {
            name: chosen.cut(name.removeprefix(inner), p) if name.startswith(inner) else p
            for name, p in block.named_parameters()
        }

    return start.initialise_from_teacher(student, teacher, layers, cut)


def _inside(layer: Layer) -> str:
    """The attention's name in its block."""
    return layer.name.removeprefix(f'{layer.block_name}.')
