"""What is to come after a token: discounted rewards, by what is left of a response, whitened."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def returns(
    rewards: Tensor,
    mask: Tensor,
    gamma: float = 1.0,
    *,
    own: bool = False,
    length_normalisation: bool = False,
) -> Tensor:
    """Discounted sums of the rewards after each token, (B, K).

    R_t = sum over t' > t of gamma^(t' - t - 1) r_t', the sum in the second term of MiniLLM's
    gradient (arXiv 2306.08543, section 2.2); divided by how many tokens it sums over, which is
    the paper's length normalisation where gamma is 1. Discounts count tokens, not places: where
    a response stands, and what stands at its padding, changes nothing.

    Args:
        rewards: (B, K), of each token; what stands where the mask is 0 is not read.
        mask: (B, K), where tokens are. An end-of-sequence token is one, also where its number is
            that of the padding.
        gamma: Discount per token, from 0 to 1.
        own: Sum from t' = t, with gamma^(t' - t), as the authors' code does. The token's own
            reward then counts once more where the single-step term is there.
        length_normalisation: Whether to divide.
    """
    is_token = mask.bool()
    total = rewards.new_zeros(rewards.shape[:1])
    sums = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        here = is_token[:, t]
        with_own = torch.where(here, rewards[:, t], 0) + gamma * total
        sums[:, t] = torch.where(here, with_own if own else total, 0)
        total = torch.where(here, with_own, total)
    if length_normalisation:
        left = is_token.flip(1).cumsum(1).flip(1)  # from each token on, itself among them
        sums = sums / (left if own else left - 1).clamp(min=1)
    return sums


def whiten(
    x: Tensor, mask: Tensor, joint_sum: Callable[[Tensor], Tensor] = torch.Tensor.clone
) -> Tensor:
    """Mean 0 and variance 1 over all tokens that count; 0 elsewhere.

    Args:
        x: (B, K).
        mask: (B, K), what counts.
        joint_sum: Sums a tensor over processes; without, one process has all.
    """
    is_token = mask.bool()
    x = x.masked_fill(~is_token, 0)
    count, total = joint_sum(torch.stack([is_token.sum().to(x.dtype), x.sum()]))
    centred = (x - total / count.clamp(min=1)).masked_fill(~is_token, 0)
    variance = joint_sum(centred.square().sum()) / count.clamp(min=1)
    return centred * torch.rsqrt(variance + 1e-8)  # as the authors': all equal gives 0
