"""MiniLLM's long-term term: importance weights, and PPO's clipped surrogate."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

IMPORTANCE = ('token', 'exact')


class Importance(NamedTuple):
    """Weights of tokens that were not drawn from the student, (B, K) each.

    Attributes:
        ratio: Of the surrogate's ratio.
        reward: Of rewards, before they are summed.
        state: Of the single-step term.
    """

    ratio: Tensor
    reward: Tensor
    state: Tensor


def log_mixture(student: Tensor, teacher: Tensor, share: float) -> Tensor:
    """Log-probabilities of (1 - share) student + share teacher.

    Args:
        student: Log-probabilities.
        teacher: The same shape.
        share: Of the teacher, at least 0 and below 1.
    """
    if share == 0:
        return student
    return torch.logaddexp(student + math.log1p(-share), teacher + math.log(share))


def importance(student: Tensor, drawn_from: Tensor, mask: Tensor, kind: str) -> Importance:
    """Weights w_t = student / drawn from, of responses drawn from something else.

    'token', as the authors' code: w_t alone, on the ratio. The single-step term has none: it is
    an expectation over the token itself, over which w_t is 1 in the mean. What was drawn before
    the token is not corrected, nor what is drawn after.

    'exact': the reward of token t has the product of w up to t, and the single-step term that
    up to the token before: the gradient is then that of responses of the student, in expectation.
    The product's variance grows with length.

    Args:
        student: (B, K) log-probabilities of the tokens drawn.
        drawn_from: The same of what they were drawn from.
        mask: (B, K), where tokens are.
        kind: 'token' or 'exact'.
    """
    log_w = (student - drawn_from).masked_fill(~mask.bool(), 0)
    one = torch.ones_like(log_w)
    if kind == 'token':
        return Importance(log_w.exp(), one, one)
    upto = log_w.cumsum(1)
    return Importance(one, upto.exp(), (upto - log_w).exp())


def surrogate(
    log_probs: Tensor, old: Tensor, advantages: Tensor, ratio: Tensor, epsilon: float | None
) -> Tensor:
    """PPO's clipped loss of each token, (B, K), to be minimised (arXiv 1707.06347, Eq. 7).

    Args:
        log_probs: (B, K) of the student now, with gradients.
        old: The same when the responses were drawn.
        advantages: (B, K), without gradients.
        ratio: (B, K) weights of the ratio, clipped with it as in the authors' code.
        epsilon: How far from 1 the ratio counts; None for no clipping.
    """
    ratio = (log_probs - old).exp() * ratio
    loss = -advantages * ratio
    if epsilon is None:
        return loss
    return torch.max(loss, -advantages * ratio.clamp(1 - epsilon, 1 + epsilon))
