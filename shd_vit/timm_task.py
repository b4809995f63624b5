"""The name by which training scripts know :mod:`shd_vit.hosts.timm`."""

from shd_vit.hosts.timm import SHDDistillationTask, SHDTrainableModule

__all__ = ['SHDDistillationTask', 'SHDTrainableModule']
