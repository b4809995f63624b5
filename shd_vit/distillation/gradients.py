"""How hard each loss pulls at the student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def gradient_norms(
    losses: dict[str, Tensor], model: nn.Module, scale: float = 1.0
) -> dict[str, float]:
    """The L2 norm of each loss's gradient with respect to all of a model's trained parameters.

    Args:
        losses: Scalars. Their graph is kept.
        model: Has the parameters. Their ``grad`` is neither read nor changed.
        scale: Losses are multiplied with it for the backward pass, so that gradients in float16
            do not underflow; the norms are without.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    norms = {}
    for name, loss in losses.items():
        grads: Sequence[Tensor | None] = [None]
        if loss.requires_grad:
            grads = torch.autograd.grad(
                loss * scale, parameters, retain_graph=True, allow_unused=True
            )
        found = [grad.float() for grad in grads if grad is not None]
        norms[name] = torch.nn.utils.get_total_norm(found).item() / scale
    return norms
