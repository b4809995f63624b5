"""The best convex combination of a group of heads, for any number of them at once."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS_PER_HEAD = 8  # of a pair of weights each; more change no map by 1e-3


def weigh_simplex(outputs_BiNkD: Tensor, gram: Tensor) -> Tensor:
    """The best convex weights (B, k) of a group of k heads.

    The w of the simplex (w >= 0, sum 1) that minimises
    ``||(sum_i w_i A_i) S - sum_i A_i X_i||_F^2``, S = sum_i X_i. Between pairs that is Eq. 9;
    progressive merging comes near it for larger groups, never below it.
    """
    return simplex_weights(residual_gram(outputs_BiNkD, gram))


def residual_gram(outputs_BiNkD: Tensor, gram: Tensor) -> Tensor:
    """Inner products of what each head of a group would leave, were it to stand for all of them.

    Head i leaves R_i = A_i S - sum_j A_j X_j. Weights that sum to 1 leave sum_i w_i R_i, with the
    squared norm w^T G w. Like squeezing, this never forms X (N x E).

    Args:
        outputs_BiNkD: :func:`shd_vit.functional.merging.head_outputs`.
        gram: (k * D, k * D), of the heads' slices of the output projection.

    Returns:
        G, (B, k, k).
    """
    of_first = torch.zeros_like(outputs_BiNkD[:, :1])
    outputs_BkNkD = torch.cat([of_first, outputs_BiNkD], dim=1)
    # Column block j of sum_j A_j X_j, before the output projection, is A_j V_j.
    target = outputs_BkNkD.diagonal(dim1=1, dim2=3).movedim(-1, 2)
    residual = (outputs_BkNkD - target[:, None]).flatten(-2)
    return (residual @ gram).flatten(2) @ residual.flatten(2).mT


def simplex_weights(gram: Tensor) -> Tensor:
    """The w of the simplex that minimises ``w^T G w``.

    From the best single head on, weight moves between the two heads between which the most can be
    gained, by the closed form for a pair (clamped where one of them has no more to give). Such
    steps converge linearly; their number is fixed, so that nothing waits for the device.

    Args:
        gram: (..., k, k), positive semidefinite.

    Returns:
        (..., k)
    """
    k = gram.shape[-1]
    own = gram.diagonal(dim1=-2, dim2=-1)
    weights = torch.nn.functional.one_hot(own.argmin(-1), k).to(gram.dtype)
    for _ in range(STEPS_PER_HEAD * (k - 1) if k > 2 else 1):
        slope = (gram @ weights[..., None])[..., 0]
        taker = slope.argmin(-1, keepdim=True)
        # Moving m from i to j changes w^T G w by -2 m gain + m^2 curve.
        gain = slope - slope.gather(-1, taker)
        row = gram.gather(-2, taker[..., None].expand(*taker.shape, k))[..., 0, :]
        curve = own + own.gather(-1, taker) - 2 * row
        best = gain / curve.clamp(min=torch.finfo(gram.dtype).tiny)
        move = torch.minimum(best, weights)
        won = (2 * gain - move * curve) * move
        giver = won.argmax(-1, keepdim=True)
        move = move.gather(-1, giver)
        weights = weights.scatter_add(-1, giver, -move).scatter_add(-1, taker, move)
    return weights
