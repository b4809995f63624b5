"""diffusers: the training loss of a denoising step, with distillation terms; sampling."""

from shd_vit.hosts.diffusers.distiller import DenoisingStep, DiffusionDistiller, Pass
from shd_vit.hosts.diffusers.gaussian import DenoisingLoss
from shd_vit.hosts.diffusers.sampling import Guidance, sample

__all__ = [
    'DenoisingLoss',
    'DenoisingStep',
    'DiffusionDistiller',
    'Guidance',
    'Pass',
    'sample',
]
