"""diffusers: the training loss of a denoising step, with distillation terms; sampling."""

from shd_vit.hosts.diffusers.distiller import DiffusionDistiller
from shd_vit.hosts.diffusers.gaussian import DenoisingLoss
from shd_vit.hosts.diffusers.passes import DenoisingStep, Pass
from shd_vit.hosts.diffusers.sampling import Guidance, sample

__all__ = [
    'DenoisingLoss',
    'DenoisingStep',
    'DiffusionDistiller',
    'Guidance',
    'Pass',
    'sample',
]
