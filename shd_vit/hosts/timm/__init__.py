"""timm: distillation as a training task."""

from shd_vit.hosts.timm.task import SHDDistillationTask, SHDTrainableModule

__all__ = ['SHDDistillationTask', 'SHDTrainableModule']
