"""Hard selection of heads, the paper's Table 7."""

from __future__ import annotations

import torch
from torch import Tensor

from shd_vit.errors import check_number
from shd_vit.merging.strategy import MERGING_STRATEGIES, Groups, MergingStrategy
from shd_vit.pairing import Pair


@MERGING_STRATEGIES.register('hard')
class HardSelection(MergingStrategy):
    """As many teacher heads as the student has, drawn before training; the others are dropped.

    The draw is saved in checkpoints.

    Args:
        seed: Seed of the draw, a whole number below 2^63. None takes torch's seed, which a run sets
            from ``randomness.seed``.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed = check_number(
            'HardSelection.seed', seed, at_most=2**63 - 1, whole=True, optional=True
        )

    def bind(self, heads: dict[Pair, tuple[int, int]]) -> None:
        seed = torch.initial_seed() if self.seed is None else self.seed
        generator = torch.Generator().manual_seed(seed)
        for (s, t), (num_student, num_teacher) in heads.items():
            drawn = torch.randperm(num_teacher, generator=generator)[:num_student]
            self.register_buffer(f'heads_{s}_{t}', drawn.sort().values)

    def heads(self, pair: Pair) -> Tensor:
        """Numbers of the chosen heads, from 0."""
        return self.get_buffer('heads_{}_{}'.format(*pair))

    def groups(self, pair: Pair, heads: tuple[int, int]) -> Groups:
        return Groups((1,) * heads[0], self.heads(pair))
