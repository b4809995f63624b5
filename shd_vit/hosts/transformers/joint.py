"""Which part of a step's joint batch a batch is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from shd_vit.hosts.transformers.batch import MEANS, counts, whole_sequences

Batch = Mapping[str, Any]


class JointBatch:
    """Counts what counts in the batches that make one step, of all processes.

    Args:
        trainer: Any, with distillation terms.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._counts: Tensor | None = None

    def take(self, batches: Sequence[Batch]) -> None:
        """Count batches of the data set, of which the next step is made."""
        self._counts = self._count(batches) if batches and self._are_kept else None

    def shares(self, batch: Batch, accumulated: int) -> dict[str, float]:
        """Which part of the joint batch this one is, for each kind of mean.

        Times the processes whose gradients are averaged; their own parts sum to 1. Equal ones where
        the others are not known.

        Args:
            batch: One of ``accumulated``.
            accumulated: Batches of a step.
        """
        # TRL's DistillationTrainer makes those of a step at once.
        made = getattr(self.trainer, '_buffered_inputs', None)
        joint = self._counts if made is None else self._count(made)
        if joint is None:
            return dict.fromkeys(MEANS, 1 / accumulated)
        part = self._here([batch]) / joint.clamp(min=1)
        args = self.trainer.args
        processes = args.world_size if args.average_tokens_across_devices else 1
        return dict(zip(MEANS, (part * processes).tolist(), strict=True))

    @property
    def _are_kept(self) -> bool:
        """Whether the batches of the data set are those of the step.

        Of trainers that call both models, they are in TRL's GKDTrainer, unless it samples.
        """
        samples = getattr(self.trainer, 'lmbda', 1) > 0 or getattr(self.trainer, 'seq_kd', False)
        return not (self.trainer.is_listening and samples)

    def _count(self, batches: Iterable[Batch]) -> Tensor:
        """(3,), as in :data:`MEANS`, of all processes."""
        found, args = self._here(batches), self.trainer.args
        if args.average_tokens_across_devices and args.world_size > 1:
            all_of_them = self.trainer.accelerator.gather(found.to(args.device).view(1, -1))
            found = all_of_them.sum(0).cpu()
        return found

    def _here(self, batches: Iterable[Batch]) -> Tensor:
        shifted, rows = self.trainer._loss_shifts_labels, self.trainer.rows
        found: Any = sum(counts(whole_sequences(batch), shifted, rows) for batch in batches)
        return found
