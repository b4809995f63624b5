"""Squeezing-Heads Distillation of vision transformers.

Importing the package registers its losses, ``ViTDistiller`` and ``DistillRunner`` with mmpretrain
where that is installed; the maths, taps and losses need torch alone.
"""

import warnings

from shd_vit.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    NonFiniteLoss,
    ShdVitError,
    UnsupportedAttention,
)
from shd_vit.functional import attention_kl, attention_maps, squeeze_heads
from shd_vit.losses import (
    AttentionTransferLoss,
    DistillationLoss,
    FeatureProjectorLoss,
    KDLoss,
    NKDLoss,
    SelfCorrelationLoss,
    SHDLoss,
    ViTKDLoss,
    VkDLoss,
)
from shd_vit.taps import ATTENTION_TAPS, TapBank
from shd_vit.version import __version__

with warnings.catch_warnings():
    # By mmcv-lite, of an operator that no vision transformer uses.
    warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')
    try:
        import mmpretrain  # noqa: F401
    except ModuleNotFoundError as missing:
        if missing.name not in ('mmpretrain', 'mmengine', 'mmcv'):
            raise
    else:
        from shd_vit.hosts.mmpretrain import plugin  # noqa: F401

__all__ = [
    'ATTENTION_TAPS',
    'AttentionTransferLoss',
    'CheckpointError',
    'ConfigError',
    'DatasetError',
    'DistillationLoss',
    'FeatureProjectorLoss',
    'KDLoss',
    'NKDLoss',
    'NonFiniteLoss',
    'SHDLoss',
    'SelfCorrelationLoss',
    'ShdVitError',
    'TapBank',
    'UnsupportedAttention',
    'ViTKDLoss',
    'VkDLoss',
    '__version__',
    'attention_kl',
    'attention_maps',
    'squeeze_heads',
]
