"""mmpretrain: distillation by mmengine's runner.

Importing it registers losses, ``ViTDistiller``, ``DistillRunner``, hooks and loaders, lets configs
be named ``shd_vit::...``, and mends mmpretrain's DeiT3
and how it finds classes in folders.
"""

import warnings

with warnings.catch_warnings():
    # By mmcv-lite, of an operator that no vision transformer uses.
    warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')
    import mmpretrain.models  # noqa: F401

from mmpretrain.registry import MODELS

from shd_vit.distillation.registry import LOSSES
from shd_vit.hosts.mmpretrain.checkpoint import load_weights, safe_load, student_weights
from shd_vit.hosts.mmpretrain.config_names import register_configs
from shd_vit.hosts.mmpretrain.deit3_repair import repair_deit3
from shd_vit.hosts.mmpretrain.distiller import ViTDistiller
from shd_vit.hosts.mmpretrain.ffcv_loader import FFCVLoader
from shd_vit.hosts.mmpretrain.hooks import (
    ChannelOrderHook,
    EpochSeedHook,
    PlainCheckpointHook,
    SettleHook,
)
from shd_vit.hosts.mmpretrain.image_folders import repair_class_folders
from shd_vit.hosts.mmpretrain.loss_monitor import LossMonitorHook
from shd_vit.hosts.mmpretrain.optim import BFloat16OptimWrapper
from shd_vit.hosts.mmpretrain.own_files import WholeCheckpointHook
from shd_vit.hosts.mmpretrain.runner import DistillRunner
from shd_vit.hosts.mmpretrain.schedule_hook import LossScheduleHook

register_configs()
repair_deit3()
repair_class_folders()
LOSSES.follow(lambda cls: MODELS.register_module(module=cls))

__all__ = [
    'BFloat16OptimWrapper',
    'ChannelOrderHook',
    'DistillRunner',
    'EpochSeedHook',
    'FFCVLoader',
    'LossMonitorHook',
    'LossScheduleHook',
    'PlainCheckpointHook',
    'SettleHook',
    'ViTDistiller',
    'WholeCheckpointHook',
    'load_weights',
    'safe_load',
    'student_weights',
]
