"""Distillation losses: hyper-parameters and weights over :mod:`shd_vit.functional`."""

from shd_vit.losses.attention_transfer import AttentionTransferLoss
from shd_vit.losses.base import DistillationLoss, ModelOutput, Needs
from shd_vit.losses.binding import bind_losses, settle_losses
from shd_vit.losses.feature_projector import FeatureProjectorLoss
from shd_vit.losses.layers import uniform_pairs
from shd_vit.losses.logits import KDLoss, NKDLoss
from shd_vit.losses.self_correlation import SelfCorrelationLoss
from shd_vit.losses.shd import SHDLoss
from shd_vit.losses.vitkd import ViTKDLoss
from shd_vit.losses.vkd import VkDLoss

__all__ = [
    'AttentionTransferLoss',
    'DistillationLoss',
    'FeatureProjectorLoss',
    'KDLoss',
    'ModelOutput',
    'NKDLoss',
    'Needs',
    'SHDLoss',
    'SelfCorrelationLoss',
    'ViTKDLoss',
    'VkDLoss',
    'bind_losses',
    'settle_losses',
    'uniform_pairs',
]
