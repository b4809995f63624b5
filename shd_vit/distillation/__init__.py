"""The order of events of a distillation, the same in every host."""

from shd_vit.distillation.schedule import LossSchedule, LossSchedules, read_schedule
from shd_vit.distillation.step import Distillation, Trainable, refuse_non_finite
from shd_vit.distillation.summary import summary
from shd_vit.distillation.teacher import FrozenTeacher

__all__ = [
    'Distillation',
    'FrozenTeacher',
    'LossSchedule',
    'LossSchedules',
    'Trainable',
    'read_schedule',
    'refuse_non_finite',
    'summary',
]
