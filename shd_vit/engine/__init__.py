"""Running distillation with mmengine."""

from shd_vit.engine.checkpoint import load_weights, safe_load, student_weights
from shd_vit.engine.hooks import ChannelOrderHook, EpochSeedHook, PlainCheckpointHook
from shd_vit.engine.optim import BFloat16OptimWrapper
from shd_vit.engine.runner import DistillRunner

__all__ = [
    'BFloat16OptimWrapper',
    'ChannelOrderHook',
    'DistillRunner',
    'EpochSeedHook',
    'PlainCheckpointHook',
    'load_weights',
    'safe_load',
    'student_weights',
]
