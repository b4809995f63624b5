"""The distance of VkD (arXiv 2403.06213)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from shd_vit.functional.attention import widen


def vkd_distance(projected: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between projected features and the teacher's standardised ones.

    The teacher's features of a sample are brought to mean 0 and variance 1 over their channels
    (variance with divisor E, 1e-5 added under the root); the student's are left as they are. Smooth
    L1 turns linear at 1. Mean over batch and channels.

    Args:
        projected: (B, E), the student's.
        teacher: (B, E).

    Returns:
        Scalar in float32 (float64 for float64 input).
    """
    standardised = F.layer_norm(widen(teacher), teacher.shape[-1:])
    return F.smooth_l1_loss(widen(projected), standardised)
