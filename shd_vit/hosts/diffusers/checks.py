"""Pairs of diffusion models that cannot be distilled, refused when they are put together."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from shd_vit.distillation import Distillation
from shd_vit.errors import ConfigError
from shd_vit.hosts.diffusers.labels import count_labels
from shd_vit.losses import OutputLoss
from shd_vit.losses.base import PairedLoss


def fact(model: Any, name: str) -> Any:
    """What a model's config says, as ``patch_size``; None if it says nothing."""
    config = getattr(model, 'config', {})
    return config.get(name) if hasattr(config, 'get') else None


def check_pair(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse models of other latents or other classes.

    Raises:
        ConfigError: Naming both values.
    """
    for name, what in (('sample_size', 'latents'), ('in_channels', 'channels of latents')):
        _same(what, fact(student, name), fact(teacher, name), name)
    classes = 'class labels (without the null class)'
    _same(classes, count_labels(student), count_labels(teacher), may_be_none=False)


def check_schedules(student: Any, teacher: Any) -> None:
    """Refuse schedulers under which a timestep, or a prediction, is another.

    Raises:
        ConfigError: Naming the field and both values.
    """
    for name in ('num_train_timesteps', 'prediction_type'):
        _same(f'scheduler.{name}', student.config[name], teacher.config[name])
    if not torch.allclose(student.betas, teacher.betas, rtol=1e-5, atol=1e-8):
        ends = [f'{s.betas[0]:g} to {s.betas[-1]:g}' for s in (student, teacher)]
        kinds = [s.config.beta_schedule for s in (student, teacher)]
        raise ConfigError(
            f'scheduler.betas of the student are {kinds[0]}, {ends[0]}, of the teacher {kinds[1]}, '
            f'{ends[1]}: both models need the same noise at a timestep'
        )


def check_losses(distillation: Distillation) -> None:
    """Refuse losses that do not fit models of images.

    Raises:
        ConfigError: Naming the loss.
    """
    student, teacher = (
        bank.anatomy for bank in (distillation.student_bank, distillation.teacher.bank)
    )
    losses: Any = distillation.losses
    for name in distillation.logit_losses:
        if not isinstance(losses[name], OutputLoss):
            raise ConfigError(
                f'losses.{name} is a {type(losses[name]).__name__}, of logits of classes: a '
                'diffusion model has none; OutputLoss compares what it predicts'
            )
    for name, loss in losses.items():
        if isinstance(loss, PairedLoss) and len(loss.pairs) > student.depth:
            raise ConfigError(
                f'losses.{name}.layers are {len(loss.pairs)} pairs, the student has '
                f'{student.depth} layers'
            )
    banks = distillation.student_bank, distillation.teacher.bank
    if any(bank.layers or bank.tokens for bank in banks):
        patches = [fact(model.model, 'patch_size') for model in (student, teacher)]
        _same('patches, and so tokens,', patches[0], patches[1], 'patch_size')


def check_variance(model: nn.Module, scheduler: Any) -> None:
    """Refuse a model and a scheduler that differ on whether the variance is learned.

    Raises:
        ConfigError: Naming both.
    """
    channels = fact(model, 'in_channels')
    given = fact(model, 'out_channels') or getattr(model, 'out_channels', None)
    kind = scheduler.config.get('variance_type')
    if None in (channels, given, kind):
        return
    has_variance = given == 2 * channels
    if has_variance != (kind == 'learned_range'):
        raise ConfigError(
            f'{type(model).__name__} has out_channels={given} for in_channels={channels}, but '
            f'scheduler.variance_type={kind!r}: '
            f"'learned_range' goes with {2 * channels} channels, others with {channels}"
        )


def _same(what: str, student: Any, teacher: Any, field: str = '', may_be_none: bool = True) -> None:
    if student == teacher or (may_be_none and None in (student, teacher)):
        return
    stated = f' ({field})' if field else ''
    raise ConfigError(
        f'the student has {what}{stated} {student}, the teacher {teacher}: both need the same'
    )
