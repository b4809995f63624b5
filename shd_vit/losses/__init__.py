"""Distillation losses: hyper-parameters and weights over :mod:`shd_vit.functional`."""

from shd_vit.losses.attention_transfer import AttentionTransferLoss
from shd_vit.losses.base import DistillationLoss
from shd_vit.losses.feature_projector import FeatureProjectorLoss
from shd_vit.losses.logits import KDLoss, NKDLoss
from shd_vit.losses.output import OutputLoss
from shd_vit.losses.self_correlation import SelfCorrelationLoss
from shd_vit.losses.shd import SHDLoss
from shd_vit.losses.vitkd import ViTKDLoss
from shd_vit.losses.vkd import VkDLoss
from shd_vit.pairing import ModelOutput, Needs

__all__ = [
    'AttentionTransferLoss',
    'DistillationLoss',
    'FeatureProjectorLoss',
    'KDLoss',
    'ModelOutput',
    'NKDLoss',
    'Needs',
    'OutputLoss',
    'SHDLoss',
    'SelfCorrelationLoss',
    'ViTKDLoss',
    'VkDLoss',
]
