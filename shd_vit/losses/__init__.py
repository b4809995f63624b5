"""Distillation losses: hyper-parameters and weights over :mod:`shd_vit.functional`."""

from shd_vit.losses.base import DistillationLoss, ModelOutput, Needs
from shd_vit.losses.logits import KDLoss, NKDLoss
from shd_vit.losses.shd import SHDLoss, uniform_pairs
from shd_vit.losses.vitkd import ViTKDLoss

__all__ = [
    'DistillationLoss',
    'KDLoss',
    'ModelOutput',
    'NKDLoss',
    'Needs',
    'SHDLoss',
    'ViTKDLoss',
    'uniform_pairs',
]
