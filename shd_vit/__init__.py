"""Squeezing-Heads Distillation of transformers.

All that is named here needs torch alone. Hosts are packages of their own: importing
``shd_vit.hosts.mmpretrain`` registers losses, ``ViTDistiller`` and ``DistillRunner`` with
mmpretrain; where mmengine was imported before, as by a config's ``custom_imports``, so does this.
"""

import sys
from importlib.util import find_spec

from shd_vit.distillation import Distillation
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
from shd_vit.pairing import ModelOutput, Needs
from shd_vit.taps import ATTENTION_TAPS, TapBank
from shd_vit.version import __version__

# A config's custom_imports=['shd_vit'] is read by mmengine, which then is to know ViTDistiller.
if 'mmengine' in sys.modules and find_spec('mmpretrain') is not None:
    from shd_vit.hosts import mmpretrain  # noqa: F401

__all__ = [
    'ATTENTION_TAPS',
    'AttentionTransferLoss',
    'CheckpointError',
    'ConfigError',
    'DatasetError',
    'Distillation',
    'DistillationLoss',
    'FeatureProjectorLoss',
    'KDLoss',
    'ModelOutput',
    'NKDLoss',
    'Needs',
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
