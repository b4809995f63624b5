"""Losses on logits: Hinton's distillation and NKD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student) of softened classes, mean over the batch (arXiv 1503.02531).

    T^2 keeps the size of the gradient when T changes.

    Args:
        student_logits: (B, classes).
        teacher_logits: (B, classes).
        temperature: T, above 0.

    Returns:
        Scalar, float32.
    """
    log_s = F.log_softmax(student_logits.float() / temperature, dim=1)
    log_t = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    return F.kl_div(log_s, log_t, reduction='batchmean', log_target=True) * temperature**2


def nkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    gamma: float = 1.5,
    temperature: float = 1.0,
) -> Tensor:
    """Normalised knowledge distillation, NKD (arXiv 2303.13005).

    The target class keeps the teacher's own probability as weight, ``-t_y log s_y``; the other
    classes are normalised among themselves, softened, and compared by cross-entropy with weight
    ``gamma T^2``. Both parts are means over the batch.

    Args:
        student_logits: (B, classes).
        teacher_logits: (B, classes).
        labels: (B,) class indices.
        gamma: Weight of the non-target part.
        temperature: T of the non-target part.

    Returns:
        Scalar, float32.
    """
    student_logits, teacher_logits = student_logits.float(), teacher_logits.float()
    y = labels.unsqueeze(1)
    log_s_y = F.log_softmax(student_logits, dim=1).gather(1, y)
    t_y = teacher_logits.softmax(dim=1).gather(1, y)
    others = torch.ones_like(student_logits, dtype=torch.bool).scatter_(1, y, False)
    s_others = student_logits[others].view(len(y), -1) / temperature
    t_others = teacher_logits[others].view(len(y), -1) / temperature
    non_target = F.cross_entropy(s_others, t_others.softmax(dim=1))
    return -(t_y * log_s_y).mean() + gamma * temperature**2 * non_target


def hard_labels(target: Tensor) -> Tensor:
    """(B,) class indices from indices or from (B, classes) mixed scores, by argmax."""
    return target.argmax(dim=1) if target.dim() > 1 else target
