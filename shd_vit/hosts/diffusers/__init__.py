"""diffusers: the training loss of a denoising step, with distillation terms."""

from shd_vit.hosts.diffusers.distiller import DenoisingStep, DiffusionDistiller, Pass
from shd_vit.hosts.diffusers.gaussian import DenoisingLoss

__all__ = ['DenoisingLoss', 'DenoisingStep', 'DiffusionDistiller', 'Pass']
