"""KL between attention maps that were averaged over heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_map_kl(student_maps: Tensor, teacher_maps: Tensor, rows: Tensor | None = None) -> Tensor:
    """KL(mean of the teacher's heads || mean of the student's heads), a row a query.

    Summed over keys, averaged over batch and query rows.

    Args:
        student_maps: (B, H_s, N, N), rows sum to 1.
        teacher_maps: (B, H_t, N, N), rows sum to 1.
        rows: Bool (B, N), True at rows that count. None counts all.

    Returns:
        Scalar of the maps' dtype; 0 where no row counts.
    """
    student, teacher = student_maps.mean(dim=1), teacher_maps.mean(dim=1)
    # A weight that came out as 0 would cost infinity.
    log_student = student.clamp(min=torch.finfo(student.dtype).tiny).log()
    divergence = F.kl_div(log_student, teacher, reduction='none').sum(dim=-1)
    if rows is None:
        return divergence.mean()
    return divergence.masked_fill(~rows, 0).sum() / rows.sum().clamp(min=1)
