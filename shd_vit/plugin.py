"""Registration with mmpretrain and mmengine."""

from mmpretrain.registry import MODELS

from shd_vit import distiller, engine  # noqa: F401  (their decorators register)
from shd_vit.data import loader  # noqa: F401
from shd_vit.losses import KDLoss, NKDLoss, SHDLoss, ViTKDLoss

for loss in (KDLoss, NKDLoss, SHDLoss, ViTKDLoss):
    MODELS.register_module(module=loss)
