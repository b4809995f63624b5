"""Running distillation with mmengine."""

from shd_vit.hosts.mmpretrain.checkpoint import load_weights, safe_load, student_weights
from shd_vit.hosts.mmpretrain.hooks import (
    ChannelOrderHook,
    EpochSeedHook,
    ObservationHook,
    PlainCheckpointHook,
)
from shd_vit.hosts.mmpretrain.loss_monitor import LossMonitorHook
from shd_vit.hosts.mmpretrain.optim import BFloat16OptimWrapper
from shd_vit.hosts.mmpretrain.own_files import WholeCheckpointHook
from shd_vit.hosts.mmpretrain.runner import DistillRunner
from shd_vit.hosts.mmpretrain.schedule_hook import LossScheduleHook

__all__ = [
    'BFloat16OptimWrapper',
    'ChannelOrderHook',
    'DistillRunner',
    'EpochSeedHook',
    'LossMonitorHook',
    'LossScheduleHook',
    'ObservationHook',
    'PlainCheckpointHook',
    'WholeCheckpointHook',
    'load_weights',
    'safe_load',
    'student_weights',
]
