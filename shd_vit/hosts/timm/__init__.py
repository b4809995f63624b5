"""timm: distillation as a training task."""

from shd_vit.hosts.timm.task import SHDDistillationTask
from shd_vit.hosts.timm.trainable import SHDTrainableModule

__all__ = ['SHDDistillationTask', 'SHDTrainableModule']
