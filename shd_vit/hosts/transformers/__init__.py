"""transformers, and TRL: distillation terms in the loss of any ``Trainer``."""

from shd_vit.hosts.transformers.start import initialise_from_teacher
from shd_vit.hosts.transformers.trainer import DistillMixin, DistillTrainer

__all__ = ['DistillMixin', 'DistillTrainer', 'initialise_from_teacher']
