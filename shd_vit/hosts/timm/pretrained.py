"""What timm says of a model's pretrained weights."""

from __future__ import annotations

from typing import Any

from shd_vit.errors import ConfigError


def refuse_head_without_weights(model: Any, field: str) -> None:
    """Refuse a pretrained model with another number of classes than its weights have.

    timm makes its classifier anew, and only logs it: its logits would be noise.

    Args:
        model: Made by timm with ``pretrained=True``.
        field: What reads its logits.

    Raises:
        ConfigError: Naming both numbers.
    """
    stated = model.pretrained_cfg.get('num_classes')
    if stated is not None and stated != model.num_classes:
        raise ConfigError(
            f'the pretrained weights of the teacher {model.pretrained_cfg.get("architecture")} '
            f'have {stated} classes, the model {model.num_classes}: its classifier is random, and '
            f'{field} would distil noise. Give weights of a teacher that was trained on these '
            'classes'
        )
