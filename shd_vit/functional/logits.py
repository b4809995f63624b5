"""Losses on logits: Hinton's distillation, forward, reverse and symmetric, and NKD.

Logits are (R, C): R rows, each one prediction, of C classes. A classifier has a row an image, a
language model a row for every position whose label counts.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.functional.attention import widen

DIVERGENCES = ('forward', 'reverse', 'jsd')


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    divergence: str = 'forward',
) -> Tensor:
    """T^2 times a divergence of softened classes, mean over the rows (arXiv 1503.02531).

    T^2 keeps the size of the gradient when T changes. With p of the teacher, q of the student:
    'forward' is KL(p || q), which covers all that the teacher may say; 'reverse' is KL(q || p),
    which keeps to what it likely says (MiniLLM, arXiv 2306.08543); 'jsd' is Jensen and Shannon's,
    (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, at most log 2 (GKD, arXiv 2306.13649).

    Args:
        student_logits: (R, C).
        teacher_logits: (R, C).
        temperature: T, above 0.
        divergence: One of :data:`DIVERGENCES`.

    Returns:
        Scalar, in float32 (float64 for float64 input); 0 where there is no row.

    Raises:
        ConfigError: As :func:`check_logits`, or if there is no such divergence.
    """
    check_logits(student_logits, teacher_logits)
    check_divergence('divergence', divergence)
    if not len(student_logits):
        return widen(student_logits).sum()
    log_s = F.log_softmax(widen(student_logits) / temperature, dim=1)
    log_t = F.log_softmax(widen(teacher_logits) / temperature, dim=1)
    if divergence == 'forward':
        loss = _kl(log_t, log_s)
    elif divergence == 'reverse':
        loss = _kl(log_s, log_t)
    else:
        log_m = torch.logaddexp(log_s, log_t) - math.log(2)
        loss = (_kl(log_t, log_m) + _kl(log_s, log_m)) / 2
    return loss * temperature**2


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of rows, their mean."""
    return F.kl_div(log_q, log_p, reduction='batchmean', log_target=True)


def check_divergence(field: str, divergence: object) -> None:
    """Refuse what is none of :data:`DIVERGENCES`.

    Raises:
        ConfigError: Naming the field.
    """
    if divergence not in DIVERGENCES:
        raise ConfigError(f'{field}={divergence!r} must be one of {", ".join(DIVERGENCES)}')


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
    ``gamma T^2``. Both parts are means over the rows.

    Args:
        student_logits: (R, C).
        teacher_logits: (R, C).
        labels: (R,) class indices.
        gamma: Weight of the non-target part.
        temperature: T of the non-target part.

    Returns:
        Scalar, in float32 (float64 for float64 input); 0 where there is no row.

    Raises:
        ConfigError: As :func:`check_logits`.
    """
    check_logits(student_logits, teacher_logits)
    if not len(student_logits):
        return widen(student_logits).sum()
    student_logits, teacher_logits = widen(student_logits), widen(teacher_logits)
    y = labels.long().unsqueeze(1)
    log_s_y = F.log_softmax(student_logits, dim=1).gather(1, y)
    t_y = teacher_logits.softmax(dim=1).gather(1, y)
    # Indices of the other classes, in order; a boolean mask would wait for the device.
    others = torch.arange(student_logits.shape[1] - 1, device=y.device)
    others = others + (others >= y)
    s_others = student_logits.gather(1, others) / temperature
    t_others = teacher_logits.gather(1, others) / temperature
    non_target = F.cross_entropy(s_others, t_others.softmax(dim=1))
    return -(t_y * log_s_y).mean() + gamma * temperature**2 * non_target


def hard_labels(target: Tensor) -> Tensor:
    """(R,) class indices from indices or from (R, C) mixed scores, by argmax."""
    return target.argmax(dim=1) if target.dim() > 1 else target


def check_logits(student: Tensor, teacher: Tensor) -> None:
    """Refuse logits that cannot be compared row by row and class by class. Looks at shapes alone.

    Raises:
        ConfigError: Naming the model and its shape, or both shapes.
    """
    for role, logits in (('student', student), ('teacher', teacher)):
        if not isinstance(logits, Tensor):
            raise ConfigError(f'logits of the {role} are a {type(logits).__name__}, not a tensor')
        if logits.dim() != 2:
            raise ConfigError(
                f'logits of the {role} are {tuple(logits.shape)}, but must be (R, C), one row a '
                'prediction'
            )
    (rows_s, classes_s), (rows_t, classes_t) = student.shape, teacher.shape
    if classes_s != classes_t:
        raise ConfigError(
            f'the student has {classes_s} logits a row, the teacher {classes_t}: they are compared '
            'class by class'
        )
    if rows_s != rows_t:
        raise ConfigError(f'the student predicts {rows_s} rows, the teacher {rows_t}')
    if classes_s < 2:
        raise ConfigError('student and teacher have 1 logit a row: a softmax needs 2 or more')


def check_target_shape(target: Tensor, logits: Tensor) -> None:
    """Refuse what is neither class indices (R,) nor scores (R, C), for logits (R, C).

    Raises:
        ConfigError: Naming shape and type, and what is allowed.
    """
    R, C = logits.shape
    if not isinstance(target, Tensor):
        raise ConfigError(f'target is a {type(target).__name__}, not a tensor of labels')
    is_index = not (target.is_floating_point() or target.dtype == torch.bool)
    if target.shape != (R, C) and not (target.shape == (R,) and is_index):
        raise ConfigError(
            f'target is {tuple(target.shape)} of {target.dtype}, but must be class indices ({R},) '
            f'or scores ({R}, {C})'
        )


def check_target(target: Tensor, num_classes: int) -> None:
    """Refuse labels outside the classes, and scores that are no distribution. Waits for the device.

    Raises:
        ConfigError: Naming the first such row, what is in it, and what is allowed.
    """
    is_wrong = ~sums_to_one(target) if target.dim() > 1 else (target < 0) | (target >= num_classes)
    if not is_wrong.any():
        return
    row = int(is_wrong.nonzero()[0])
    if target.dim() > 1:
        raise ConfigError(
            f'scores of sample {row} sum to {target[row].sum().item():g}, but those of one mixed '
            'label sum to 1: several labels a sample, as for BCE, cannot be distilled by a softmax'
        )
    raise ConfigError(
        f'label {target[row].item()} of sample {row} is none of the {num_classes} classes, '
        f'0 to {num_classes - 1}'
    )


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Refuse class indices (R,) outside the classes, on a CPU, before a loss indexes with them.

    Elsewhere looking would wait for the device. Scores (R, C) are left to those who read them.

    Raises:
        ConfigError: As :func:`check_target`.
    """
    if labels.dim() == 1 and labels.device.type == 'cpu' and not labels.is_floating_point():
        check_target(labels, num_classes)


def sums_to_one(scores: Tensor) -> Tensor:
    """Which rows of (R, C) sum to 1, up to the rounding of bfloat16: bool (R,), False for NaN."""
    return (widen(scores).sum(dim=1) - 1).abs() < 0.02
