"""MiniLLM with terms on what is inside the models: SHD, on responses that the student draws."""

from __future__ import annotations

from shd_vit.hosts.transformers.minillm.trainer import MiniLLMTrainer
from shd_vit.hosts.transformers.trainer import DistillMixin


class DistillMiniLLMTrainer(DistillMixin, MiniLLMTrainer):
    """MiniLLM, with distillation terms; both models are listened to, nothing is run twice.

    Maps and hidden states are those of prompt and response, without padding. Plain text has no
    such terms.
    """
