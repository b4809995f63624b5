"""MiniLLM with terms on what is inside the models: SHD, on responses that the student draws."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from shd_vit.hosts.transformers.batch import whole_sequences
from shd_vit.hosts.transformers.minillm.trainer import MiniLLMTrainer
from shd_vit.hosts.transformers.trainer import DistillMixin


class DistillMiniLLMTrainer(DistillMixin, MiniLLMTrainer):
    """MiniLLM, with distillation terms; both models are listened to, nothing is run twice.

    Maps and hidden states are those of prompt and response without padding, or of the response
    with ``rows='completion'``; logits are those of the response. Plain text has no such terms.
    """

    def settle(self, batches: Iterable[Any]) -> None:
        """Show batches to the losses that ask for it (SHD's ``head_matching``), once.

        Args:
            batches: With ``input_ids`` and ``attention_mask``; or of the trainer's own loader, rows
                with prompts, which the student answers: of equal ones in a row, the first.
        """

        def key(batch: Any) -> Any:
            return batch if isinstance(batch, list) else id(batch)

        super().settle(self._answered(next(group)) for _, group in groupby(batches, key))

    def _answered(self, batch: Any) -> Any:
        if not isinstance(batch, list):
            return batch
        return whole_sequences(self._generate_and_score_completions(batch))
