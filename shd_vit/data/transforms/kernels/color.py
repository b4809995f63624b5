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
def _luminance(flat, weights):
    """ITU-R 601 luminance (pixels,) uint8, rounded, of weights in 1/65536."""
    a, b, c = np.int32(weights[0]), np.int32(weights[1]), np.int32(weights[2])
    gray = np.empty(len(flat) // 3, np.uint8)
    for i in range(len(gray)):
        gray[i] = (flat[3 * i] * a + flat[3 * i + 1] * b + flat[3 * i + 2] * c + 0x8000) >> 16
    return gray


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
    gray = _luminance(flat, weights)
    total = 0
    for i in range(len(gray)):
        total += gray[i]
    mean = np.int32(total / len(gray) + 0.5)
    for i in range(len(flat)):
        flat[i] = _blend(mean, flat[i], factor)
    return image


@njit(nogil=True, cache=True)
def saturation(image, factor, weights):
    """Blend each pixel with its luminance."""
    flat, factor = image.reshape(-1), np.float32(factor)
    gray = _luminance(flat, weights)
    spread = np.empty(len(flat), np.uint8)  # once a channel, so that the blend is contiguous
    for i in range(len(gray)):
        spread[3 * i] = spread[3 * i + 1] = spread[3 * i + 2] = gray[i]
    for i in range(len(flat)):
        flat[i] = _blend(spread[i], flat[i], factor)
    return image


@njit(nogil=True, cache=True)
def sharpness(image, factor):
    """Blend with a 3x3 mean whose centre weighs 5 of 13; the border stays as it is."""
    height, width, _ = image.shape
    n, factor = 3 * width, np.float32(factor)
    source, out = image.reshape(height, n), np.empty((height, n), np.uint8)
    columns = np.empty(n, np.int32)
    for y in range(height):
        here, line = source[y], out[y]
        for i in range(n):
            line[i] = here[i]
        if not 0 < y < height - 1:
            continue
        above, below = source[y - 1], source[y + 1]
        for i in range(n):
            columns[i] = np.int32(above[i]) + np.int32(here[i]) + np.int32(below[i])
        left, middle, right = columns[: n - 6], columns[3 : n - 3], columns[6:]
        center, inner = here[3 : n - 3], line[3 : n - 3]
        for i in range(n - 6):
            total = np.int32(left[i] + middle[i] + right[i] + 4 * np.int32(center[i]))
            mean = np.int32(np.float32(total) * np.float32(1 / 13) + np.float32(0.5))
            inner[i] = _blend(mean, center[i], factor)
    return out.reshape(height, width, 3)
