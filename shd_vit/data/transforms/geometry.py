"""Crops, resizes and flips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import cv2
import numpy as np

from shd_vit.data.transforms.base import (
    FFCV_TRANSFORMS,
    Transform,
    as_image,
    check_box,
    check_pillow_bicubic,
    check_probability,
    check_range,
    refuse,
    size_pair,
    small_image,
)
from shd_vit.data.transforms.kernels.resample import resize


def resize_box(
    image: np.ndarray, top: int, left: int, height: int, width: int, size: tuple[int, int]
) -> np.ndarray:
    """Pillow's bicubic resize of a box to ``size`` (height, width).

    Raises:
        ValueError: If the box is not in the image, or ``size`` has no pixel.
    """
    check_box(image, top, left, height, width)
    if min(size) < 1:
        raise ValueError(f'{height} x {width} pixels cannot be resized to {size[0]} x {size[1]}')
    return resize(image, top, left, height, width, size)


@FFCV_TRANSFORMS.register_module()
class RandomResizedCrop(Transform):
    """A box of random area and aspect ratio, resized (Inception crop, arXiv 1409.4842).

    Args:
        scale: Output size, or (height, width).
        crop_ratio_range: Area of the box as part of the image's, uniform.
        aspect_ratio_range: Width / height of the box, uniform in its logarithm.
        max_attempts: Boxes that may stick out before the central crop is taken.
        interpolation: 'bicubic' only.
        backend: 'pillow' only.
    """

    def __init__(
        self,
        scale: int | Sequence[int],
        crop_ratio_range: tuple[float, float] = (0.08, 1.0),
        aspect_ratio_range: tuple[float, float] = (3 / 4, 4 / 3),
        max_attempts: int = 10,
        interpolation: str = 'bilinear',
        backend: str = 'cv2',
    ) -> None:
        name = 'RandomResizedCrop'
        check_pillow_bicubic(name, backend, interpolation)
        if not isinstance(max_attempts, int) or max_attempts < 0:
            refuse(name, 'max_attempts', max_attempts, 'an int from 0 on')
        self.size = size_pair(name, 'scale', scale)
        self.areas = check_range(name, 'crop_ratio_range', crop_ratio_range, 0, math.inf)
        self.ratios = check_range(name, 'aspect_ratio_range', aspect_ratio_range, 1e-6, 1e6)
        self.log_ratios = tuple(math.log(ratio) for ratio in self.ratios)
        self.max_attempts = max_attempts

    def draw(self, rng: Random, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of the box."""
        for _ in range(self.max_attempts):
            area = rng.uniform(*self.areas) * height * width
            ratio = math.exp(rng.uniform(*self.log_ratios))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return rng.randrange(height - h + 1), rng.randrange(width - w + 1), h, w
        h, w = height, width
        if width / height < self.ratios[0]:
            h = round(width / self.ratios[0])
        elif width / height > self.ratios[1]:
            w = round(height * self.ratios[1])
        return (height - h) // 2, (width - w) // 2, h, w

    def box(self, *params):
        return params

    def warm_up(self):
        resize_box(small_image(), 2, 2, 10, 12, self.size)

    def apply(self, image, top, left, height, width):
        return resize_box(as_image(image), top, left, height, width, self.size)


@FFCV_TRANSFORMS.register_module()
class RandomFlip(Transform):
    """Left and right swapped with probability ``prob``."""

    def __init__(self, prob: float, direction: str = 'horizontal') -> None:
        if direction != 'horizontal':
            refuse('RandomFlip', 'direction', direction, "'horizontal'")
        self.prob = check_probability('RandomFlip', 'prob', prob)

    def draw(self, rng: Random, height: int, width: int) -> tuple[bool]:
        """Whether to flip."""
        return (rng.random() < self.prob,)

    def apply(self, image, flip):
        return cv2.flip(as_image(image), 1) if flip else image


@FFCV_TRANSFORMS.register_module()
class ResizeEdge(Transform):
    """Resize one edge to ``scale`` pixels and the other in proportion, rounded down.

    Args:
        scale: Pixels.
        edge: 'short', 'long', 'width' or 'height'.
        backend: 'pillow' only.
        interpolation: 'bicubic' only.
    """

    def __init__(
        self,
        scale: int,
        edge: str = 'short',
        backend: str = 'cv2',
        interpolation: str = 'bilinear',
    ) -> None:
        check_pillow_bicubic('ResizeEdge', backend, interpolation)
        if edge not in ('short', 'long', 'width', 'height'):
            refuse('ResizeEdge', 'edge', edge, "'short', 'long', 'width' or 'height'")
        self.scale, _ = size_pair('ResizeEdge', 'scale', scale)
        self.edge = edge

    def warm_up(self):
        resize_box(small_image(), 0, 0, 20, 20, (10, 12))

    def apply(self, image):
        image = as_image(image)
        height, width = image.shape[:2]
        by_width = {'short': width < height, 'long': width > height}
        if by_width.get(self.edge, self.edge == 'width'):
            size = int(self.scale * height / width), self.scale
        else:
            size = self.scale, int(self.scale * width / height)
        return resize_box(image, 0, 0, height, width, size)


@FFCV_TRANSFORMS.register_module()
class CenterCrop(Transform):
    """The central (width, height) ``crop_size`` pixels, or as many as there are."""

    def __init__(self, crop_size: int | Sequence[int]) -> None:
        self.width, self.height = size_pair('CenterCrop', 'crop_size', crop_size)

    def apply(self, image):
        height, width = image.shape[:2]
        h, w = min(self.height, height), min(self.width, width)
        top, left = round((height - h) / 2), round((width - w) / 2)
        return np.ascontiguousarray(image[top : top + h, left : left + w])
