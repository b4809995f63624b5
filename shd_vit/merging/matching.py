"""Head matching, the paper's Table 5: linear merging of the heads that are most alike."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.functional import group_sizes, map_cosines, merge_neighbours, merge_passes
from shd_vit.merging.strategy import MERGING_STRATEGIES, Groups, MergingStrategy
from shd_vit.pairing import Pair
from shd_vit.taps import AttentionTap


@MERGING_STRATEGIES.register('head_matching')
class HeadMatching(MergingStrategy):
    """Linear merging of a teacher's heads in an order in which similar heads are neighbours.

    How alike two heads are is the cosine between their flattened maps (T_a = 1), averaged over
    training images, which are seen once before training. The order is saved in checkpoints.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_settled = False
        self._targets: dict[Pair, int] = {}
        self._sums: dict[Pair, Tensor] = {}

    def bind(self, heads: dict[Pair, tuple[int, int]]) -> None:
        for (s, t), (num_student, num_teacher) in heads.items():
            self._targets[s, t] = num_student
            unsettled = torch.full((num_teacher,), -1)
            self.register_buffer(f'order_{s}_{t}', unsettled)

    def order(self, pair: Pair) -> Tensor:
        """Numbers of all heads, from 0; -1 before there is an order."""
        return self.get_buffer('order_{}_{}'.format(*pair))

    @torch.no_grad()
    def observe(self, tap: AttentionTap, pair: Pair) -> None:
        """Take in the teacher's maps of a batch."""
        similarity = map_cosines(tap.q, tap.k, tap.scale, tap.bias, tap.mask).sum(0)
        self._sums[pair] = self._sums.get(pair, 0) + similarity

    def settle(self) -> None:
        """Fix the order, from what all processes have observed."""
        for pair, num_heads in self._targets.items():
            if pair not in self._sums:
                raise ConfigError('strategy head_matching has seen no training image')
            similarity = self._sums.pop(pair)
            if dist.is_initialized():
                dist.all_reduce(similarity)
            self.order(pair).copy_(torch.tensor(match_heads(similarity, num_heads)))
        self.is_settled = True

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.is_settled = all((self.order(pair) >= 0).all() for pair in self._targets)

    def groups(self, pair: Pair, heads: tuple[int, int]) -> Groups:
        num_student, num_teacher = heads
        return Groups(group_sizes(num_teacher, num_student), self.order(pair))


def match_heads(similarity: Tensor, num_heads: int) -> list[int]:
    """The order of heads in which progressive merging joins, greedily, those that are most alike.

    Every pass takes the most similar pair of groups, then the most similar of the others, and so
    on; groups are as alike as their heads are on average.

    Args:
        similarity: (Ht, Ht), symmetric.
        num_heads: Heads that merging leaves.
    """
    groups = [(head,) for head in range(len(similarity))]
    for merges in merge_passes(len(groups), num_heads):
        groups = merge_neighbours(_pairs_first(groups, merges, similarity), merges)
    return [head for group in groups for head in group]


def _pairs_first(groups: list[tuple], merges: int, similarity: Tensor) -> list[tuple]:
    """Groups with ``merges`` pairs to be joined in front, most alike first."""
    # Order within a group was fixed by the passes before, so merging finds the same groups again
    # only if an odd one out, which is smaller than the rest, keeps its place at the end.
    all_merge = 2 * merges == len(groups)
    size = len(groups[0])
    free = [group for group in groups if all_merge or len(group) == size]
    pairs = []
    for _ in range(merges):
        candidates = [(a, b) for i, a in enumerate(free) for b in free[i + 1 :]]
        best = max(candidates, key=lambda pair: similarity[list(pair[0])][:, list(pair[1])].mean())
        pairs.append(best)
        free = [group for group in free if group not in best]
    # A pair with the odd one goes last; the odd one stands second in it, as it did in ``groups``.
    pairs.sort(key=lambda pair: len(pair[1]) != size)
    joined = [group for pair in pairs for group in pair]
    return joined + [group for group in groups if group not in joined]
