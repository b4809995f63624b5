"""Registration with mmpretrain and mmengine."""

from mmpretrain.registry import MODELS

from shd_vit import losses
from shd_vit.hosts import mmpretrain  # noqa: F401  (decorators register)
from shd_vit.hosts.mmpretrain import distiller, ffcv_loader  # noqa: F401
from shd_vit.hosts.mmpretrain.config_names import register_configs
from shd_vit.hosts.mmpretrain.deit3_repair import repair_deit3
from shd_vit.hosts.mmpretrain.image_folders import repair_class_folders

register_configs()
repair_deit3()
repair_class_folders()

for name in losses.__all__:
    cls = getattr(losses, name)
    is_loss = isinstance(cls, type) and issubclass(cls, losses.DistillationLoss)
    if is_loss and cls is not losses.DistillationLoss:
        MODELS.register_module(module=cls)
