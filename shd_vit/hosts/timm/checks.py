"""Losses by flags, their schedules, and models that timm's task cannot take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shd_vit.distillation import LossSchedule, read_schedule
from shd_vit.distillation.registry import LOSSES
from shd_vit.errors import ConfigError
from shd_vit.losses import DistillationLoss


def choose_losses(
    flags: Mapping[str, bool | Mapping[str, Any] | None], more: Mapping[str, DistillationLoss]
) -> dict[str, DistillationLoss]:
    """The losses that flags switch on, and those that are given.

    Raises:
        ConfigError: If a flag is none, a name stands twice, or there is no loss at all.
    """
    losses: dict[str, DistillationLoss] = {}
    for name, flag in flags.items():
        if flag is True or isinstance(flag, Mapping):
            losses[name] = LOSSES.build(dict({} if flag is True else flag, type=name))
        elif flag is not None and flag is not False:
            raise ConfigError(f'{name}={flag!r} must be True, False or a dict of settings')
    if twice := sorted({'task', *losses} & set(more)):
        raise ConfigError(f'losses names {", ".join(twice)}, which the task has already')
    losses.update(more)
    if not losses:
        raise ConfigError('there is nothing to distil: set shd, vitkd or nkd, or give losses')
    return losses


def read_schedules(
    schedules: Mapping[str, dict[str, float]], losses: Mapping[str, DistillationLoss]
) -> dict[str, LossSchedule]:
    """Schedules of weights by name of the loss.

    Raises:
        ConfigError: If one makes no sense, or there is no such loss.
    """
    if unknown := sorted(schedules.keys() - losses.keys()):
        raise ConfigError(f'schedules.{unknown[0]}: there is no such loss in {sorted(losses)}')
    return {name: read_schedule(cfg, f'schedules.{name}') for name, cfg in schedules.items()}


def check_student(student: Any) -> None:
    """Refuse what is no model of timm, or gives two logits a class.

    Raises:
        ConfigError: Saying what is missing.
    """
    missing = [n for n in ('pretrained_cfg', 'num_classes', 'in_chans') if not hasattr(student, n)]
    if missing:
        raise ConfigError(
            f'student_model {type(student).__name__} has no {missing[0]}: it must be a model of '
            'timm'
        )
    if getattr(student, 'distilled_training', False):
        raise ConfigError(
            'student_model.distilled_training=True gives two logits a class: call '
            'set_distilled_training(False), or use timm.task.TokenDistillationTask'
        )


def check_teacher(teacher: Any) -> None:
    """Refuse models of transformers.

    Raises:
        ConfigError: Saying how to wrap one.
    """
    if hasattr(teacher, 'config') and not hasattr(teacher, 'pretrained_cfg'):
        raise ConfigError(
            f'teacher_model {type(teacher).__name__} is a model of transformers, whose output and '
            'normalisation timm does not know: wrap it in a module that returns logits and has a '
            'pretrained_cfg with mean and std'
        )
