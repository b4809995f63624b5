"""Class labels: where a model embeds them, and dropping them once for student and teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from shd_vit.errors import ConfigError


def label_embedders(model: nn.Module) -> list[Any]:
    """Every module that embeds class labels, as diffusers, DiT and MDT have them."""
    names = ('embedding_table', 'num_classes', 'dropout_prob')
    return [m for m in model.modules() if all(hasattr(m, name) for name in names)]


def count_labels(model: nn.Module) -> int | None:
    """How many classes a model is told apart, without the null class; None if it takes no label."""
    embedders = label_embedders(model)
    return embedders[0].num_classes if embedders else None


def null_label(model: nn.Module, what: str) -> int:
    """The label of no class, which follows the last.

    Args:
        model: Embeds labels.
        what: Needs it, for the error.

    Raises:
        ConfigError: If the model takes no labels, or has no such class.
    """
    embedders = label_embedders(model)
    if not embedders:
        raise ConfigError(f'{what} needs class labels, which {type(model).__name__} does not take')
    count = embedders[0].num_classes
    for embedder in embedders:
        rows = embedder.embedding_table.num_embeddings
        if rows != count + 1:
            raise ConfigError(
                f'{what} needs a null class: {type(model).__name__} embeds {rows} labels for '
                f'{count} classes, expected {count + 1}'
            )
    return count


def switch_off_label_dropout(model: nn.Module) -> None:
    """Have a model leave labels as it gets them, in training as well.

    diffusers' DiT drops labels in every block, each with its own draw, so that a sample is without
    a label in some blocks alone; and a teacher, in eval mode, would see labels that its student
    does not.
    """
    for embedder in label_embedders(model):
        embedder.dropout_prob = 0.0


def drop_labels(labels: Tensor, probability: float, null: int) -> Tensor:
    """Labels (B,), of which each is ``null`` with a probability."""
    is_dropped = torch.rand(len(labels), device=labels.device) < probability
    return labels.masked_fill(is_dropped, null)


def check_labels(labels: Tensor | None, count: int | None) -> None:
    """Refuse labels that a model does not have, before a lookup fails without a name.

    Raises:
        ConfigError: Naming the label and what is allowed.
    """
    if count is None and labels is None:
        return
    if labels is None:
        raise ConfigError(f'labels=None: the student takes a label of {count} classes a sample')
    if count is None:
        raise ConfigError('labels are given, and the student takes none')
    if labels.dim() != 1 or labels.is_floating_point():
        raise ConfigError(f'labels {tuple(labels.shape)} of {labels.dtype} must be (B,) integers')
    if labels.device.type != 'cpu':
        return  # it would wait for the device
    for label in labels.tolist():
        if not 0 <= label < count:
            raise ConfigError(f'label {label} must be between 0 and {count - 1}')
