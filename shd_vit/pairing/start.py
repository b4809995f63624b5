"""A student that starts from layers of its teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shd_vit.errors import ConfigError
from shd_vit.pairing.layers import check_layers, layer_pairs
from shd_vit.taps import Anatomy
from shd_vit.taps.anatomy import Layer

# Parameters of a teacher's block by name, cut to what a student's layer has room for.
Cut = Callable[[Layer, Layer], Mapping[str, Tensor]]


@torch.no_grad()
def initialise_from_teacher(
    student: nn.Module,
    teacher: nn.Module,
    layers: str | Sequence[tuple[int, int]] = 'uniform',
    cut: Cut | None = None,
) -> list[str]:
    """Copy blocks of a teacher, and embeddings, norms and head around them, into a student.

    Nothing is copied unless all of it fits, parameter by parameter: the student has the teacher's
    width, and its heads are as wide.

    Args:
        student: Any model whose attention is tapped.
        teacher: Of the same class.
        layers: 'uniform': block l of L_s from block ceil(l L_t / L_s); 'last': the last alone; or
            (student, teacher) blocks, counted from 1.
        cut: Of student and teacher layer, where heads are chosen. None: whole blocks.

    Returns:
        Names of the student's parameters that were copied.

    Raises:
        ConfigError: If a parameter has no counterpart of its shape, naming the first.
    """
    if type(student) is not type(teacher):
        raise ConfigError(
            f'the student is a {type(student).__name__}, the teacher a {type(teacher).__name__}: '
            'only blocks of one architecture can be copied'
        )
    check_layers(layers, 'initialise_from_teacher')
    anatomies = Anatomy(student, 'student'), Anatomy(teacher, 'teacher')
    pairs = layer_pairs(layers, *anatomies, 'initialise_from_teacher')
    if cut is None and anatomies[0].heads[0] != anatomies[1].heads[0]:
        raise ConfigError(
            f'the student has {anatomies[0].heads[0]} heads a layer, the teacher '
            f'{anatomies[1].heads[0]}: give both as many, or choose heads where the host can'
        )
    around, sources = (_around(anatomy) for anatomy in anatomies)
    _refuse_left_over('', around, sources)
    wanted = {name: sources.get(name) for name in around}
    for s, t in pairs:
        wanted.update(_of_block(anatomies, s, t, cut))

    own = dict(student.named_parameters(remove_duplicate=False))
    for name, source in wanted.items():
        if source is None or source.shape != own[name].shape:
            shape = 'none' if source is None else tuple(source.shape)
            raise ConfigError(
                f'{name} of the student is {tuple(own[name].shape)}, that of the teacher {shape}: '
                'only parameters of one shape can be copied'
            )
    copied: dict[nn.Parameter, str] = {}
    for name, source in wanted.items():
        first = copied.setdefault(own[name], name)
        if first != name and not torch.equal(wanted[first], source):  # type: ignore[arg-type]
            raise ConfigError(
                f'{first} and {name} are one weight of the student, but two of the teacher: give '
                'the student tie_word_embeddings=False'
            )
    for parameter, name in copied.items():
        parameter.copy_(wanted[name])  # type: ignore[arg-type]
    return list(copied.values())


def _around(anatomy: Anatomy) -> dict[str, Tensor]:
    """Parameters around the blocks: embeddings, norms and the head; shared ones by each name."""
    inside = {id(p) for block in anatomy.blocks for p in block.parameters()}
    named = anatomy.model.named_parameters(remove_duplicate=False)
    return {name: p for name, p in named if id(p) not in inside}


def _of_block(
    anatomies: tuple[Anatomy, Anatomy], student: int, teacher: int, cut: Cut | None
) -> dict[str, Tensor | None]:
    """What a block of the student gets from one of the teacher, by names in the student."""
    numbers = student - 1, teacher - 1
    ours, theirs = (
        dict(a.blocks[n].named_parameters()) for a, n in zip(anatomies, numbers, strict=True)
    )
    layers = [a.layers[n] for a, n in zip(anatomies, numbers, strict=True)]
    prefix = f'{layers[0].block_name}.'
    _refuse_left_over(prefix, ours, theirs)
    given: Mapping[str, Any] = theirs if cut is None else cut(layers[0], layers[1])
    return {f'{prefix}{name}': given.get(name) for name in ours}


def _refuse_left_over(prefix: str, ours: Iterable[str], theirs: Iterable[str]) -> None:
    """Refuse what the teacher has and the student lacks: without it, blocks compute other things.

    Raises:
        ConfigError: Naming the first.
    """
    if left := [name for name in theirs if name not in {*ours}]:
        raise ConfigError(
            f'the teacher has {prefix}{left[0]}, the student does not: their blocks differ'
        )
