"""What a generation batch is learnt by: advantages and weights of each token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shd_vit.errors import NonFiniteLoss
from shd_vit.hosts.transformers.minillm.advantage import returns, whiten
from shd_vit.hosts.transformers.minillm.objective import importance, log_mixture

# Keys of a batch: what the student gave when responses were drawn, and what counts by how much.
OLD, ADVANTAGES, RATIO, STATE = 'old_log_probs', 'advantages', 'importance_ratio', 'state_weights'


def score(
    student: Tensor, teacher: Tensor, mask: Tensor, args: Any, joint_sum: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Advantages, and weights of tokens that the teacher had a share in drawing, (B, K) each.

    Args:
        student: (B, K) log-probabilities of the tokens drawn, 0 at padding.
        teacher: The same of the teacher.
        mask: (B, K), where tokens are.
        args: A ``MiniLLMConfig``.
        joint_sum: Sums a tensor over processes.

    Raises:
        NonFiniteLoss: Naming the first reward that is not finite.
    """
    rewards = teacher - student
    _refuse_non_finite(rewards, mask)
    rewards = rewards / args.reward_scale
    if args.reward_clip is not None:
        rewards = rewards.clamp(-args.reward_clip, args.reward_clip)
    drawn_from = log_mixture(student, teacher, args.teacher_mix)
    weights = importance(student, drawn_from, mask, args.importance)
    advantages = returns(
        rewards * weights.reward,
        mask,
        args.gamma,
        own=args.returns == 'own',
        length_normalisation=args.length_normalisation,
    )
    if args.whiten:
        advantages = whiten(advantages, mask, joint_sum)
    return {OLD: student, ADVANTAGES: advantages, RATIO: weights.ratio, STATE: weights.state}


def _refuse_non_finite(rewards: Tensor, mask: Tensor) -> None:
    bad = (~torch.isfinite(rewards) & mask.bool()).nonzero()
    if len(bad):
        row, token = bad[0].tolist()
        raise NonFiniteLoss(
            f'the reward of token {token} of response {row} is {rewards[row, token].item()}: the '
            'student drew what has no probability, or no number, in one of the models; look for '
            'logits that are not finite (fp16 overflows, a token that the teacher has not)'
        )
