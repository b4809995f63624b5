"""The pieces of ViTKD (arXiv 2209.02432) that have no weights."""

from __future__ import annotations

import torch
from torch import Tensor

from shd_vit.functional.attention import widen


def squared_error(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared error summed over everything, divided by the batch size.

    Args:
        student: (B, N, E), already as wide as the teacher.
        teacher: (B, N, E).
        mask: (B, N), True where tokens count. None counts all.

    Returns:
        Scalar, in float32 (float64 for float64 input).
    """
    error = (widen(student) - widen(teacher)).square()
    if mask is not None:
        error = error * mask.unsqueeze(-1)
    return error.sum() / len(student)


def random_token_mask(
    batch: int, tokens: int, ratio: float, device: torch.device | str = 'cpu'
) -> Tensor:
    """(batch, tokens) bool, True at masked tokens, drawn for each sample on its own.

    Exactly ``int(tokens * (1 - ratio))`` tokens a sample are kept.
    """
    masked = tokens - int(tokens * (1 - ratio))
    chosen = torch.rand(batch, tokens, device=device).topk(masked, dim=1).indices
    mask = torch.zeros(batch, tokens, dtype=torch.bool, device=device)
    return mask.scatter_(1, chosen, True)
