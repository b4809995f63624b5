"""Registration with mmpretrain and mmengine."""

from mmpretrain.registry import MODELS

from shd_vit.distillation.registry import LOSSES
from shd_vit.hosts import mmpretrain  # noqa: F401  (decorators register)
from shd_vit.hosts.mmpretrain import distiller, ffcv_loader  # noqa: F401
from shd_vit.hosts.mmpretrain.config_names import register_configs
from shd_vit.hosts.mmpretrain.deit3_repair import repair_deit3

register_configs()
repair_deit3()
LOSSES.follow(lambda cls: MODELS.register_module(module=cls))
