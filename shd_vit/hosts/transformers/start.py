"""A student that starts from layers of its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from shd_vit.errors import ConfigError
from shd_vit.hosts.transformers.batch import base_model
from shd_vit.pairing.layers import check_layers, layer_pairs
from shd_vit.taps import Anatomy


@torch.no_grad()
def initialise_from_teacher(
    student: Any, teacher: Any, layers: str | Sequence[tuple[int, int]] = 'uniform'
) -> list[str]:
    """Copy blocks of a teacher, and all that is around its blocks, into a student of its width.

    Nothing is copied unless all of it fits. Attention heads of equal width are those of the
    teacher; where the student has fewer, or other widths, shapes differ and are refused.

    Args:
        student: A model of transformers.
        teacher: Of the same architecture.
        layers: 'uniform': block l of L_s from block ceil(l L_t / L_s); 'last': the last alone; or
            (student, teacher) blocks, counted from 1.

    Returns:
        Names of the student's parameters that were copied.

    Raises:
        ConfigError: If a parameter has no counterpart of its shape, naming the first.
    """
    student, teacher = base_model(student), base_model(teacher)
    if type(student) is not type(teacher):
        raise ConfigError(
            f'the student is a {type(student).__name__}, the teacher a {type(teacher).__name__}: '
            'only blocks of one architecture can be copied'
        )
    check_layers(layers, 'initialise_from_teacher')
    anatomies = Anatomy(student, 'student'), Anatomy(teacher, 'teacher')
    pairs = layer_pairs(layers, *anatomies, 'initialise_from_teacher')
    if anatomies[0].heads[0] != anatomies[1].heads[0]:
        raise ConfigError(
            f'the student has {anatomies[0].heads[0]} heads a layer, the teacher '
            f'{anatomies[1].heads[0]}: weights of heads would be cut apart; give both as many'
        )
    sources = _outside(anatomies[1])
    wanted = {name: sources.get(name) for name in _outside(anatomies[0])}
    for s, t in pairs:
        theirs = dict(anatomies[1].blocks[t - 1].named_parameters())
        prefix = _name_of(student, anatomies[0].blocks[s - 1])
        for name, _ in anatomies[0].blocks[s - 1].named_parameters():
            wanted[f'{prefix}.{name}'] = theirs.get(name)

    own = dict(student.named_parameters())
    for name, source in wanted.items():
        if source is None or source.shape != own[name].shape:
            shape = 'none' if source is None else tuple(source.shape)
            raise ConfigError(
                f'{name} of the student is {tuple(own[name].shape)}, that of the teacher {shape}: '
                'only parameters of one shape can be copied'
            )
    for name, source in wanted.items():
        assert source is not None
        own[name].copy_(source)
    return list(wanted)


def _outside(anatomy: Anatomy) -> dict[str, nn.Parameter]:
    """Parameters around the blocks: embeddings, norms and the head."""
    inside = {id(p) for block in anatomy.blocks for p in block.parameters()}
    return {name: p for name, p in anatomy.model.named_parameters() if id(p) not in inside}


def _name_of(model: nn.Module, inner: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is inner)
