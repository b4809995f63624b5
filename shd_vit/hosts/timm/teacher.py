"""The teacher of a timm task, in whatever form it is given."""

from __future__ import annotations

from typing import Any

import torch
from timm.task import DistillationTeacher
from torch import nn

from shd_vit.hosts.timm.checkpoint import create_from


def make_teacher(
    given: str | nn.Module | DistillationTeacher,
    student: Any,
    path: str | None,
    overlay: dict[str, Any] | None,
    device: torch.device,
    dtype: torch.dtype | None,
) -> DistillationTeacher:
    """A frozen teacher in eval mode.

    Args:
        given: timm's name of it, a module, or what timm's tasks call a teacher.
        student: A model of timm, whose classes and channels a teacher by name gets.
        path: Its weights, where it is given by name.
        overlay: Overrides of its pretrained cfg, where it is given by name.
        device: Where it is made.
        dtype: Of its weights, where it is made.

    Raises:
        CheckpointError: If the weights cannot be read, or do not fit.
    """
    made: dict[str, Any] = dict(in_chans=student.in_chans, device=device, dtype=dtype)
    if isinstance(given, str) and path:
        given = create_from(given, path, student.num_classes, overlay, **made)
    if not isinstance(given, DistillationTeacher):
        given = DistillationTeacher(
            given, student.num_classes, pretrained_cfg_overlay=overlay, **made
        )
    return given.requires_grad_(False).eval()
