"""Random erasing (arXiv 1708.04896)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from random import Random
from statistics import NormalDist

import numpy as np

from shd_vit.data.transforms.base import (
    FFCV_TRANSFORMS,
    Transform,
    as_image,
    check_box,
    check_probability,
    check_range,
    refuse,
    small_image,
    triple,
)
from shd_vit.data.transforms.kernels.noise import fill_noise

LEVELS = 1 << 16  # of the random number behind one value of noise


@functools.cache
def _normal_quantiles() -> np.ndarray:
    """(LEVELS,) float64, of the standard normal distribution."""
    inverse = NormalDist().inv_cdf
    return np.array([inverse((level + 0.5) / LEVELS) for level in range(LEVELS)])


@FFCV_TRANSFORMS.register_module()
class RandomErasing(Transform):
    """Fill a random rectangle with a colour or with noise.

    Args:
        erase_prob: Probability that an image is changed.
        min_area_ratio: Of the rectangle, as part of the image's area; uniform up to the next.
        max_area_ratio: See ``min_area_ratio``.
        aspect_range: Height / width, uniform in its logarithm; one number r is (r, 1 / r).
        mode: 'const' fills with ``fill_color``, 'rand' with noise for each pixel and channel.
        fill_color: Colour, or mean of the noise, in the order of the image's channels.
        fill_std: Standard deviation of normal noise; None means uniform noise in 0..255.
    """

    def __init__(
        self,
        erase_prob: float = 0.5,
        min_area_ratio: float = 0.02,
        max_area_ratio: float = 0.4,
        aspect_range: float | Sequence[float] = (3 / 10, 10 / 3),
        mode: str = 'const',
        fill_color: float | Sequence[float] = (128, 128, 128),
        fill_std: float | Sequence[float] | None = None,
    ) -> None:
        name = 'RandomErasing'
        if isinstance(aspect_range, (int, float)):
            aspect_range = sorted((aspect_range, 1 / aspect_range))
        if mode not in ('const', 'rand'):
            refuse(name, 'mode', mode, "'const' or 'rand'")
        self.prob = check_probability(name, 'erase_prob', erase_prob)
        check_probability(name, 'min_area_ratio', min_area_ratio)
        self.areas = (
            min_area_ratio,
            check_range(name, 'max_area_ratio', (min_area_ratio, max_area_ratio), 0, 1)[1],
        )
        ratios = check_range(name, 'aspect_range', aspect_range, 1e-6, 1e6)
        self.log_ratios = tuple(math.log(ratio) for ratio in ratios)
        means = triple(name, 'fill_color', fill_color)
        self.tables = np.empty((3, LEVELS), np.uint8)
        for channel, mean in enumerate(means):
            if mode == 'const':
                values = np.array(mean)
            elif fill_std is None:
                values = np.arange(LEVELS) // (LEVELS // 256)
            else:
                std = triple(name, 'fill_std', fill_std)[channel]
                values = mean + std * _normal_quantiles()
            self.tables[channel] = values.astype(np.int32).clip(0, 255)  # truncates toward 0

    def draw(self, rng: Random, height: int, width: int) -> tuple[int, int, int, int, int]:
        """Top, left, height (0: nothing to do) and width of the rectangle; seed of its noise."""
        if rng.random() > self.prob:
            return 0, 0, 0, 0, 0
        ratio = math.exp(rng.uniform(*self.log_ratios))
        area = rng.uniform(*self.areas) * height * width
        h = min(round(math.sqrt(area * ratio)), height)
        w = min(round(math.sqrt(area / ratio)), width)
        top = rng.randrange(height - h) if h < height else 0
        left = rng.randrange(width - w) if w < width else 0
        return top, left, h, w, rng.getrandbits(63)  # 63: an int64 to the kernel, whatever is drawn

    def warm_up(self):
        self.apply(small_image(), 2, 2, 3, 3, 1)

    def apply(self, image, top, left, height, width, seed):
        if not height or not width:
            return image
        image = as_image(image)
        check_box(image, top, left, height, width)
        return fill_noise(image, top, left, height, width, self.tables, seed)
