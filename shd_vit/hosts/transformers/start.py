"""A student that starts from layers of its teacher."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shd_vit.errors import ConfigError
from shd_vit.hosts.transformers.batch import base_model
from shd_vit.hosts.transformers.heads import ChosenHeads
from shd_vit.pairing.layers import check_layers, layer_pairs
from shd_vit.taps import Anatomy


@torch.no_grad()
def initialise_from_teacher(
    student: Any,
    teacher: Any,
    layers: str | Sequence[tuple[int, int]] = 'uniform',
    heads: Sequence[int] | None = None,
) -> list[str]:
    """Copy blocks of a teacher, and embeddings, norms and head around them, into a student.

    Nothing is copied unless all of it fits, parameter by parameter: the student has the teacher's
    width, and its heads are as wide.

    Args:
        student: A model of transformers.
        teacher: Of the same architecture.
        layers: 'uniform': block l of L_s from block ceil(l L_t / L_s); 'last': the last alone; or
            (student, teacher) blocks, counted from 1.
        heads: Of the teacher, counted from 1, that a student of fewer heads gets in each block, in
            this order. With grouped key heads, the key heads go with them. None: all.

    Returns:
        Names of the student's parameters that were copied.

    Raises:
        ConfigError: If a parameter has no counterpart of its shape, naming the first; or if heads
            cannot be chosen so.
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
    if heads is None and anatomies[0].heads[0] != anatomies[1].heads[0]:
        raise ConfigError(
            f'the student has {anatomies[0].heads[0]} heads a layer, the teacher '
            f'{anatomies[1].heads[0]}: choose them by heads=[...], or give both as many'
        )
    around, sources = (_around(anatomy) for anatomy in anatomies)
    _refuse_left_over('', around, sources)
    wanted = {name: sources.get(name) for name in around}
    for s, t in pairs:
        wanted.update(_of_block(anatomies, s, t, heads))

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
    anatomies: tuple[Anatomy, Anatomy], student: int, teacher: int, heads: Sequence[int] | None
) -> dict[str, Tensor | None]:
    """What a block of the student gets from one of the teacher, by names in the student."""
    blocks = [a.blocks[n - 1] for a, n in zip(anatomies, (student, teacher), strict=True)]
    prefix, ours, theirs = (
        f'{_name_of(anatomies[0].model, blocks[0])}.',
        *(dict(block.named_parameters()) for block in blocks),
    )
    _refuse_left_over(prefix, ours, theirs)
    if heads is None:
        return {f'{prefix}{name}': theirs.get(name) for name in ours}
    attns = [a.layers[n - 1].attn for a, n in zip(anatomies, (student, teacher), strict=True)]
    inner = f'{_name_of(blocks[1], attns[1])}.'
    chosen = ChosenHeads(heads, *attns)
    cut = {
        name: chosen.cut(name.removeprefix(inner), p) if name.startswith(inner) else p
        for name, p in theirs.items()
    }
    return {f'{prefix}{name}': cut.get(name) for name in ours}


def _refuse_left_over(prefix: str, ours: Iterable[str], theirs: Iterable[str]) -> None:
    """Refuse what the teacher has and the student lacks: without it, blocks compute other things.

    Raises:
        ConfigError: Naming the first.
    """
    if left := [name for name in theirs if name not in {*ours}]:
        raise ConfigError(
            f'the teacher has {prefix}{left[0]}, the student does not: their blocks differ'
        )


def _name_of(model: nn.Module, inner: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is inner)
