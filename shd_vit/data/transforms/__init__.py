"""The DeiT augmentation of one uint8 image, with mmpretrain's configs and Pillow's pixels.

Compiled with numba, without the GIL and without threads of its own: a loader calls transforms from
its pool of threads.
"""

from __future__ import annotations

import time
from random import Random

import numpy as np

from shd_vit.data.transforms.base import FFCV_TRANSFORMS, Transform, build_transforms
from shd_vit.data.transforms.erasing import RandomErasing
from shd_vit.data.transforms.geometry import CenterCrop, RandomFlip, RandomResizedCrop, ResizeEdge
from shd_vit.data.transforms.randaugment import RandAugment

__all__ = [
    'FFCV_TRANSFORMS',
    'CenterCrop',
    'RandAugment',
    'RandomErasing',
    'RandomFlip',
    'RandomResizedCrop',
    'ResizeEdge',
    'Transform',
    'build_transforms',
    'warm_up',
]


def warm_up() -> float:
    """Compile every kernel, or load it from numba's cache; the seconds that took."""
    start = time.perf_counter()
    image = np.zeros((20, 20, 3), np.uint8)
    bicubic = dict(backend='pillow', interpolation='bicubic')
    augment = RandAugment('timm_increasing', 1, 9, hparams=dict(interpolation='bicubic'))
    image = RandomResizedCrop(16, **bicubic)(image, Random(0))
    image = RandomFlip(1.0)(image, Random(0))
    for policy in augment.policies:
        image = policy.apply(image, 0.5)
    RandomErasing(1.0, mode='rand')(image, Random(0))
    return time.perf_counter() - start
