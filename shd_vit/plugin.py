"""Registration with mmpretrain and mmengine."""

from mmpretrain.registry import MODELS

from shd_vit import distiller, engine, losses  # noqa: F401  (decorators register)
from shd_vit.data import loader  # noqa: F401

for name in losses.__all__:
    cls = getattr(losses, name)
    is_loss = isinstance(cls, type) and issubclass(cls, losses.DistillationLoss)
    if is_loss and cls is not losses.DistillationLoss:
        MODELS.register_module(module=cls)
