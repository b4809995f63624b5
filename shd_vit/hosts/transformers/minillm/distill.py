"""MiniLLM with terms on what is inside the models: SHD, on responses that the student draws."""

from __future__ import annotations

from typing import Any

import torch

from shd_vit.hosts.transformers.batch import IGNORED
from shd_vit.hosts.transformers.minillm.trainer import MiniLLMTrainer
from shd_vit.hosts.transformers.trainer import DistillMixin


class DistillMiniLLMTrainer(DistillMixin, MiniLLMTrainer):
    """MiniLLM, with distillation terms; both models are listened to, nothing is run twice.

    Maps and hidden states are those of prompt and response, without padding; logits those of the
    response. Plain text has no such terms. For SHD's ``head_matching``, ``settle`` takes batches
    of ``input_ids`` and ``attention_mask``.
    """

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        response = batch['completion_ids'].masked_fill(batch['completion_mask'] == 0, IGNORED)
        prompt = torch.full_like(batch['prompt_ids'], IGNORED)
        return {**batch, 'labels': torch.cat([prompt, response], 1)}
