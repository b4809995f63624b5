"""Models of mmpretrain that would train on something else than meant."""

from __future__ import annotations

from mmpretrain.models.heads import ClsHead, MultiLabelClsHead
from torch import nn

from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain.model_config import MISSING, ModelConfig


def refuse_dropped_augments(student: ModelConfig) -> None:
    """Refuse batch augmentations of the student's own config.

    Raises:
        ConfigError: Saying where they go.
    """
    if (student.model.get('train_cfg') or {}).get('augments'):
        raise ConfigError(
            'model.student.train_cfg.augments would never be applied: batches are mixed once, for '
            'student and teacher. Move it to model.train_cfg and set model.student.train_cfg=None'
        )


def refuse_unstated_weights(teacher: ModelConfig) -> None:
    """Refuse a teacher of which nobody said where its weights are.

    Raises:
        ConfigError: Saying what to write.
    """
    if teacher.checkpoint is MISSING:
        raise ConfigError(
            'model.teacher.checkpoint is missing: give a path or URL, or write '
            'checkpoint=None to distil from a teacher with random weights'
        )


def refuse_own_loss(student: nn.Module) -> None:
    """Refuse a head whose loss is not one of its logits (ArcFace's margin needs the label).

    Raises:
        ConfigError: Naming the head.
    """
    head = getattr(student, 'head', None)
    if head is not None and type(head).loss not in (ClsHead.loss, MultiLabelClsHead.loss):
        raise ConfigError(
            f'model.student.head {type(head).__name__} computes its loss from features, which a '
            'distiller does not hand to it: use a head that has the loss() of ClsHead'
        )


def refuse_sigmoids(student: nn.Module, loss: str) -> None:
    """Refuse a head of sigmoids, for a loss on logits.

    Raises:
        ConfigError: Naming the loss and the head.
    """
    head = getattr(student, 'head', None)
    if isinstance(head, MultiLabelClsHead):
        raise ConfigError(
            f'model.losses.{loss} compares softmaxes over classes, but {type(head).__name__} of '
            'the student gives every class a sigmoid'
        )
