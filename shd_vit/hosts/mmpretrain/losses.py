"""Losses, schedules and targets, from what configs and data samples say."""

from __future__ import annotations

from typing import Any

import torch
from mmpretrain.models.heads import MultiLabelClsHead
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from shd_vit.distillation import LossSchedule, read_schedule
from shd_vit.distillation.registry import LOSSES
from shd_vit.errors import ConfigError
from shd_vit.functional.logits import check_labels
from shd_vit.losses import DistillationLoss


def build_loss(name: str, cfg: dict) -> DistillationLoss:
    """The loss of ``model.losses.<name>``.

    Raises:
        ConfigError: If there is no such loss, or it cannot have these arguments.
    """
    field = f'model.losses.{name}'
    if name == 'cls':
        raise ConfigError(f'{field}: that name is the student loss')
    options = {k: v for k, v in cfg.items() if k != 'schedule'} if isinstance(cfg, dict) else cfg
    # A loss of the user's own may be registered with mmpretrain alone.
    cls = MODELS.get(options.get('type', '')) if isinstance(options, dict) else None
    if isinstance(cls, type) and issubclass(cls, DistillationLoss):
        options = dict(options, type=cls)
    return LOSSES.build(options, field)


def read_schedules(losses: dict[str, dict]) -> dict[str, LossSchedule]:
    """The schedules of those losses that have one, by name.

    Raises:
        ConfigError: If one makes no sense.
    """
    schedules = {name: cfg.get('schedule') for name, cfg in losses.items()}
    return {
        name: read_schedule(cfg, f'model.losses.{name}.schedule')
        for name, cfg in schedules.items()
        if cfg is not None
    }


def own_losses(
    student: Any, logits: Tensor, data_samples: list[DataSample]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The student's own losses, from the logits at hand, and the target of the others.

    Args:
        student: ImageClassifier, which keeps its loss in its head, or one that has it itself.
        logits: (B, classes).
        data_samples: With labels, or scores where images were mixed.

    Returns:
        Losses by name, ``loss_cls`` among them; labels or scores, None for several labels an image,
        which no distillation loss reads.
    """
    owner, target = getattr(student, 'head', student), None
    if not isinstance(owner, MultiLabelClsHead):
        target = target_of(data_samples)
        check_labels(target, logits.shape[1])
    losses = owner._get_loss(logits, data_samples)
    losses['loss_cls'] = losses.pop('loss')
    return losses, target


def target_of(data_samples: list[DataSample]) -> Tensor:
    """Labels (B,), or scores (B, classes) where images were mixed.

    Raises:
        ConfigError: If a sample has no label, or several.
    """
    if 'gt_score' in data_samples[0]:
        return torch.stack([sample.gt_score for sample in data_samples])
    for number, sample in enumerate(data_samples):
        labels = sample.gt_label.numel() if 'gt_label' in sample else 0
        if labels != 1:
            raise ConfigError(
                f'sample {number} of the batch has {labels or "no"} labels: expected one, or '
                'scores of all classes'
            )
    return torch.cat([sample.gt_label for sample in data_samples])
