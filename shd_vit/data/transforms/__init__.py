"""The DeiT augmentation of one uint8 image, with mmpretrain's configs and Pillow's pixels.

Compiled with numba, without the GIL and without threads of its own: a loader calls transforms from
its pool of threads.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

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


def warm_up(transforms: Iterable[Transform]) -> float:
    """Compile the kernels of transforms, or load them from numba's cache; the seconds it took."""
    start = time.perf_counter()
    for transform in transforms:
        transform.warm_up()
    return time.perf_counter() - start
