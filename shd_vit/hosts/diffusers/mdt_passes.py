"""The two passes of a training step of MDTv2, and which layers meet in each."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from shd_vit.distillation.registry import LOSSES
from shd_vit.errors import ConfigError
from shd_vit.hosts.diffusers.mdt import MDTv2Model, draw_kept
from shd_vit.hosts.diffusers.passes import Conditions, Pass
from shd_vit.losses.base import PairedLoss
from shd_vit.pairing.layers import Pairs, uniform_pairs
from shd_vit.taps import Anatomy

_logger = logging.getLogger(__name__)
STAGES = ('encoder_in', 'encoder_out', 'side', 'decoder')


def mdt_passes(
    student: MDTv2Model,
    teacher: MDTv2Model | None = None,
    losses: Mapping[str, Any] | None = None,
    masked_losses: Mapping[str, Any] | None = None,
    ratio: tuple[float, float] = (0.3, 0.5),
) -> tuple[Pass, Pass]:
    """Each batch is run whole and with tokens left out, and both losses are summed.

    Teacher and student keep the same tokens. Losses with ``layers='uniform'`` pair, in the whole
    pass, layer l of L_s with ceil(l L_t / L_s), without the side block, which does not run. In the
    masked pass the encoder sees the kept tokens alone, and encoders of S/2 and XL/2 end at
    different shares of the depth, so that rule would pair maps of different tokens: there it holds
    within each stage, the side block included.

    Args:
        student: Of which the step is.
        teacher: None where the student is trained alone.
        losses: Settings by name, of the whole pass.
        masked_losses: Of the masked pass. None: the same; ``{}``: none. The paper of SHD does not
            say which of the passes it distils.
        ratio: Bounds of the share of tokens that are left out.

    Returns:
        For :class:`~shd_vit.hosts.diffusers.distiller.DiffusionDistiller`; terms of the second
        have 'masked' before their names.

    Raises:
        ConfigError: If a model is no MDTv2, or a loss is built already, or pairs layers that see
            different tokens.
    """
    for role, model in (('student', student), ('teacher', teacher)):
        if model is not None and not isinstance(model, MDTv2Model):
            raise ConfigError(
                f'the {role} is {type(model).__name__}: masked passes need MDTv2Model'
            )
    whole, masked = losses or {}, (losses if masked_losses is None else masked_losses) or {}
    if teacher is None and (whole or masked):
        raise ConfigError(f'losses.{next(iter({**whole, **masked}))} needs a teacher: teacher=None')
    draw_kept(1, student.grid**2, ratio)  # refuses bounds that are none
    if teacher is not None:
        pair: Any = student, teacher
        models = Anatomy(pair[0], 'student'), Anatomy(pair[1], 'teacher')
        whole, masked = (
            {name: _paired(name, loss, is_masked, *models) for name, loss in named.items()}
            for is_masked, named in ((False, whole), (True, masked))
        )
    draw = partial(_keep, tokens=student.grid**2, ratio=ratio)
    return Pass(losses=whole), Pass('masked', masked, draw)


def _keep(latents: Tensor, tokens: int, ratio: tuple[float, float]) -> Conditions:
    return dict(kept=draw_kept(len(latents), tokens, ratio, device=latents.device))


def _paired(
    name: str, loss: Any, is_masked: bool, student: Anatomy, teacher: Anatomy
) -> dict[str, Any]:
    """Settings of a loss with the layers that it pairs in this pass."""
    if loss is not True and not isinstance(loss, Mapping):
        raise ConfigError(
            f'losses.{name} must be True or settings: each of the two passes builds its own loss'
        )
    settings = {'type': name, **({} if loss is True else loss)}
    kind = LOSSES.get(settings['type'])
    if kind is None or not issubclass(kind, PairedLoss):
        return settings
    stages = [_stages(anatomy) for anatomy in (student, teacher)]
    layers = settings.get('layers', 'uniform')
    if layers == 'uniform':
        layers = _by_stage(*stages) if is_masked else _whole(*stages)
        rule = 'stage by stage' if is_masked else 'over all layers but the side block'
        pairs = ', '.join(f'{s}<-{t}' for s, t in layers)
        _logger.info('%s, %s pass: %s (%s)', name, _PASS[is_masked], pairs, rule)
    elif layers != 'last':
        for pair in layers:
            _check_tokens(f'losses.{name}.layers', pair, is_masked, *stages)
    return {**settings, 'layers': layers}


_PASS = {False: 'whole', True: 'masked'}
Stages = dict[str, list[int]]


def _stages(anatomy: Anatomy) -> Stages:
    """Numbers of the layers, from 1, by the list of blocks that they stand in."""
    return dict(zip(STAGES, anatomy.stages, strict=True))


def _whole(student: Stages, teacher: Stages) -> Pairs:
    """The paper's rule over all layers that run in a whole pass."""
    numbers = [
        [n for stage in STAGES if stage != 'side' for n in stages[stage]]
        for stages in (student, teacher)
    ]
    return [(numbers[0][s - 1], numbers[1][t - 1]) for s, t in uniform_pairs(*map(len, numbers))]


def _by_stage(student: Stages, teacher: Stages) -> Pairs:
    """The paper's rule within each stage."""
    return [
        (student[stage][s - 1], teacher[stage][t - 1])
        for stage in STAGES
        for s, t in uniform_pairs(len(student[stage]), len(teacher[stage]))
    ]


def _check_tokens(
    field: str, pair: tuple[int, int], is_masked: bool, student: Stages, teacher: Stages
) -> None:
    """Refuse layers that do not run in this pass, or see other tokens.

    Raises:
        ConfigError: Naming the pair.
    """
    found = [
        next((stage for stage, layers in stages.items() if number in layers), None)
        for number, stages in zip(pair, (student, teacher), strict=True)
    ]
    if None in found:
        return  # no such layer: the loss says so
    if not is_masked and 'side' in found:
        raise ConfigError(
            f'{field} has {tuple(pair)}: the side block does not run in the whole pass'
        )
    if is_masked and len({str(stage).startswith('encoder') for stage in found}) > 1:
        raise ConfigError(
            f'{field} has {tuple(pair)}, {found[0]} of the student and {found[1]} of the teacher: '
            'in the masked pass encoders see the kept tokens alone, other stages see all'
        )
