"""Registration with mmpretrain and mmengine."""

from mmpretrain.registry import MODELS

from shd_vit import distiller, engine, losses  # noqa: F401  (decorators register)
from shd_vit.data import loader  # noqa: F401
from shd_vit.engine.config_names import register_configs
from shd_vit.upstream import repair_deit3

register_configs()
repair_deit3()

for name in losses.__all__:
    cls = getattr(losses, name)
    is_loss = isinstance(cls, type) and issubclass(cls, losses.DistillationLoss)
    if is_loss and cls is not losses.DistillationLoss:
        MODELS.register_module(module=cls)
