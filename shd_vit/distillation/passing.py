"""Pairs of maps that are counted while the teacher runs, so that its maps need not be kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from shd_vit.losses import DistillationLoss
from shd_vit.losses.base import PairedLoss
from shd_vit.pairing import ModelOutput, Needs
from shd_vit.taps import AttentionTap
from shd_vit.taps.bank import Reader

Distances = dict[str, dict[int, Tensor]]  # by name of the loss and number of its pair
View = Callable[[ModelOutput], ModelOutput]


class PassingPairs:
    """Which pairs can be counted when the teacher's layer has run: those that read nothing else.

    Args:
        losses: By name, bound.
        needs: Of the teacher, of each.
    """

    def __init__(self, losses: Mapping[str, DistillationLoss], needs: Mapping[str, Needs]) -> None:
        self.of_layer: dict[int, list[tuple[str, int]]] = defaultdict(list)
        kept: set[int] = set()
        for name, need in needs.items():
            loss = losses[name]
            if (
                isinstance(loss, PairedLoss)
                and type(loss).forward is PairedLoss.forward
                and need == Needs(attention=need.attention)
            ):
                for number, (_, layer) in enumerate(loss.pairs):
                    self.of_layer[layer].append((name, number))
            else:
                kept.update(need.attention)
        for layer in kept & self.of_layer.keys():
            del self.of_layer[layer]

    def readers(
        self,
        losses: Mapping[str, Any],
        student: ModelOutput,
        view: View,
        distances: Distances,
    ) -> dict[int, Reader]:
        """By layer, what puts the distances of its pairs into ``distances``.

        Args:
            losses: Those that count now, by name.
            student: With gradients.
            view: What losses are to see of what the teacher left.
            distances: Filled while the teacher runs.
        """

        def reader(layer: int, pairs: list[tuple[str, int]]) -> Reader:
            def read(tap: AttentionTap) -> None:
                teacher = view(ModelOutput(None, {layer: tap}, {}))  # type: ignore[arg-type]
                for name, number in pairs:
                    distance = losses[name].of_pair(number, student, teacher)
                    distances.setdefault(name, {})[number] = distance

            return read

        counting = {
            layer: [(name, number) for name, number in pairs if name in losses]
            for layer, pairs in self.of_layer.items()
        }
        return {
            layer: reader(layer, pairs)
            for layer, pairs in counting.items()
            if all(losses[name].is_settled for name, _ in pairs)
        }
