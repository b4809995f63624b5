"""Pillow's point operations and enhancements, in place where no neighbour is read.

Enhancements blend with a degenerate image in float32 and truncate
(https://github.com/python-pillow/Pillow/blob/12.0.0/src/libImaging/Blend.c).
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def invert(image):
    flat = image.reshape(-1)
    for i in range(len(flat)):
        flat[i] = 255 - flat[i]
    return image


@njit(nogil=True, cache=True)
def posterize(image, mask):
    """Keep the bits of ``mask``."""
    flat = image.reshape(-1)
    for i in range(len(flat)):
        flat[i] &= np.uint8(mask)
    return image


@njit(nogil=True, cache=True)
def solarize(image, threshold):
    """Invert values from ``threshold`` (an integer) on."""
    flat = image.reshape(-1)
    for i in range(len(flat)):
        value = np.int32(flat[i])
        flat[i] = value if value < threshold else 255 - value
    return image


@njit(nogil=True, cache=True)
def solarize_add(image, addend, threshold):
    """Add to values below ``threshold``, up to 255; all integers."""
    flat = image.reshape(-1)
    for i in range(len(flat)):
        value = np.int32(flat[i])
        flat[i] = min(max(value + addend, 0), 255) if value < threshold else value
    return image


@njit(nogil=True, cache=True)
def _blend(degenerate, value, factor):
    mixed = np.float32(degenerate) + factor * np.float32(np.int32(value) - np.int32(degenerate))
    return np.uint8(min(max(mixed, np.float32(0)), np.float32(255)))


@njit(nogil=True, cache=True)
def _luma(a, b, c, weights):
    """ITU-R 601 luminance in 16 fractional bits, rounded."""
    return (a * weights[0] + b * weights[1] + c * weights[2] + 0x8000) >> 16


@njit(nogil=True, cache=True)
def brightness(image, factor):
    flat, factor = image.reshape(-1), np.float32(factor)
    for i in range(len(flat)):
        flat[i] = _blend(0, flat[i], factor)
    return image


@njit(nogil=True, cache=True)
def contrast(image, factor, weights):
    """Blend with the mean luminance. ``weights`` are 16-bit integers, one a channel."""
    flat, factor = image.reshape(-1), np.float32(factor)
    total = 0
    for i in range(0, len(flat), 3):
        total += _luma(flat[i], flat[i + 1], flat[i + 2], weights)
    mean = np.int32(total / (len(flat) // 3) + 0.5)
    for i in range(len(flat)):
        flat[i] = _blend(mean, flat[i], factor)
    return image


@njit(nogil=True, cache=True)
def saturation(image, factor, weights):
    """Blend each pixel with its luminance."""
    flat, factor = image.reshape(-1), np.float32(factor)
    for i in range(0, len(flat), 3):
        gray = np.int32(_luma(flat[i], flat[i + 1], flat[i + 2], weights))
        flat[i] = _blend(gray, flat[i], factor)
        flat[i + 1] = _blend(gray, flat[i + 1], factor)
        flat[i + 2] = _blend(gray, flat[i + 2], factor)
    return image


@njit(nogil=True, cache=True)
def sharpness(image, factor):
    """Blend with a 3x3 mean whose centre weighs 5 of 13; the border stays as it is."""
    height, width, _ = image.shape
    n, factor = 3 * width, np.float32(factor)
    source, out = image.reshape(height, n), np.empty((height, n), np.uint8)
    out[0], out[height - 1] = source[0], source[height - 1]
    for y in range(1, height - 1):
        above, here, below, line = source[y - 1], source[y], source[y + 1], out[y]
        line[:3], line[n - 3 :] = here[:3], here[n - 3 :]
        for i in range(3, n - 3):
            total = np.int32(4 * here[i])
            for j in range(i - 3, i + 4, 3):
                total += np.int32(above[j]) + np.int32(here[j]) + np.int32(below[j])
            line[i] = _blend((2 * total + 13) // 26, here[i], factor)  # rounded total / 13
    return out.reshape(height, width, 3)
