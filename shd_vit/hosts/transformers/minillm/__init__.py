"""MiniLLM: on-policy distillation by the reverse KL of whole responses (arXiv 2306.08543)."""

from shd_vit.hosts.transformers.minillm.config import MiniLLMConfig
from shd_vit.hosts.transformers.minillm.distill import DistillMiniLLMTrainer
from shd_vit.hosts.transformers.minillm.trainer import MiniLLMTrainer

__all__ = ['DistillMiniLLMTrainer', 'MiniLLMConfig', 'MiniLLMTrainer']
