"""Running distillation with mmengine."""

from shd_vit.engine.checkpoint import load_weights, safe_load, student_weights
from shd_vit.engine.hooks import (
    ChannelOrderHook,
    EpochSeedHook,
    ObservationHook,
    PlainCheckpointHook,
)
from shd_vit.engine.loss_monitor import LossMonitorHook
from shd_vit.engine.loss_schedule import LossScheduleHook
from shd_vit.engine.optim import BFloat16OptimWrapper
from shd_vit.engine.runner import DistillRunner

__all__ = [
    'BFloat16OptimWrapper',
    'ChannelOrderHook',
    'DistillRunner',
    'EpochSeedHook',
    'LossMonitorHook',
    'LossScheduleHook',
    'ObservationHook',
    'PlainCheckpointHook',
    'load_weights',
    'safe_load',
    'student_weights',
]
