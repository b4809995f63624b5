"""How alike the tokens of an image are to each other, and how far two models agree on it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from shd_vit.functional.attention import widen


def self_correlation(tokens: Tensor) -> Tensor:
    """Cosines between all pairs of tokens, F F^T / (|F| |F|) (Eq. 12 of arXiv 2502.07436).

    In float32 (float64 for float64 input), whatever autocast says.

    Args:
        tokens: (B, N, E).

    Returns:
        (B, N, N), symmetric, with 1 on the diagonal. A token of zeros has cosine 0 with all tokens,
        and gradient 0.
    """
    tokens = widen(tokens)
    norm = tokens.norm(dim=-1, keepdim=True)
    # Divided by infinity rather than by a small number, whose gradient would be huge.
    unit = tokens / norm.masked_fill(norm == 0, float('inf'))
    with torch.autocast(tokens.device.type, enabled=False):
        return unit @ unit.mT


def self_correlation_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - Sim(Cor_t, Cor_s), the mean over the batch (Eq. 12 of arXiv 2502.07436).

    Sim, which the paper leaves open, is the cosine between the two matrices as flat vectors.

    Args:
        student: (B, N, E_s).
        teacher: (B, N, E_t).
        mask: Bool (B, N), True at tokens that count; the others have to be 0 in both, whose cosines
            are 0 and so change no Sim. Samples without any have no part in the mean. None counts
            all.

    Returns:
        Scalar from 0 to 2, in float32 (float64 for float64 input).
    """
    ours, theirs = (self_correlation(tokens).flatten(1) for tokens in (student, teacher))
    similarity = F.cosine_similarity(ours, theirs)
    if mask is None:
        return 1 - similarity.mean()
    is_sample = mask.any(dim=1)
    return ((1 - similarity) * is_sample).sum() / is_sample.sum().clamp(min=1)
