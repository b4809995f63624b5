"""Pillow's antialiased bicubic resize of a box of an image, bit for bit.

Pillow filters 8-bit images with weights of 22 fractional bits, one axis after the other, rounding
to 8 bits after each (https://github.com/python-pillow/Pillow/blob/12.0.0/src/libImaging/Resample.c).
Columns of an interleaved image are filtered along contiguous memory, which vectorises; rows are
not, so OpenCV transposes the box for the same kernel, and transposes it back.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
from numba import njit

PRECISION = 22  # fractional bits: 32 less 8 of the pixel and 2 for sums outside 0..255
GROUP = 4  # taps that one sweep over a row sums


@functools.lru_cache(maxsize=1024)
def bicubic_weights(size: int, out_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Taps that resample ``size`` pixels to ``out_size``.

    Returns:
        first: (out_size,) int32, index of each output's first tap.
        weights: (out_size, taps) int32 with :data:`PRECISION` fractional bits. Taps past an
            output's support weigh 0, so that taps are a multiple of :data:`GROUP`.
    """
    taps = 2 * math.ceil(2 * max(size / out_size, 1)) + 1
    first = np.empty(out_size, np.int32)
    weights = np.zeros((out_size, -(-taps // GROUP) * GROUP), np.int32)
    used = _fill_weights(size, out_size, first, weights)
    return first, np.ascontiguousarray(weights[:, : -(-used // GROUP) * GROUP])


@njit(nogil=True, cache=True)
def _fill_weights(size, out_size, first, weights):
    scale = size / out_size
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    inverse = 1.0 / stretch
    kernel = np.empty(weights.shape[1])
    used = 0
    for out in range(out_size):
        center = (out + 0.5) * scale
        start = max(int(center - support + 0.5), 0)
        taps = min(int(center + support + 0.5), size) - start
        total = 0.0
        for tap in range(taps):
            kernel[tap] = _bicubic((tap + start - center + 0.5) * inverse)
            total += kernel[tap]
        for tap in range(taps):
            weight = kernel[tap] / total * (1 << PRECISION)
            weights[out, tap] = int(weight - 0.5 if weight < 0 else weight + 0.5)
        first[out] = start
        used = max(used, taps)
    return used


@njit(nogil=True, cache=True)
def _bicubic(x):
    """Keys' cubic convolution with a = -0.5."""
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return 0.0


@njit(nogil=True, cache=True)
def _filter(source, left, n, first, weights):
    """Filter the first axis of bytes (rows, k, left + n or more): (len(first), k, n)."""
    last = source.shape[0] - 1
    right = left + n
    out = np.empty((len(first), source.shape[1], n), np.uint8)
    total = np.empty(n, np.int32)
    for y in range(len(first)):
        for k in range(source.shape[1]):
            for i in range(n):
                total[i] = 1 << (PRECISION - 1)
            for tap in range(0, weights.shape[1], GROUP):
                row = first[y] + tap
                k0, k1, k2, k3 = weights[y, tap : tap + GROUP]
                s0 = source[min(row, last), k, left:right]
                s1 = source[min(row + 1, last), k, left:right]
                s2 = source[min(row + 2, last), k, left:right]
                s3 = source[min(row + 3, last), k, left:right]
                for i in range(n):
                    total[i] += k0 * s0[i] + k1 * s1[i] + k2 * s2[i] + k3 * s3[i]
            line = out[y, k]
            for i in range(n):
                line[i] = min(max(total[i] >> PRECISION, 0), 255)
    return out


def resize(
    image: np.ndarray, top: int, left: int, height: int, width: int, size: tuple[int, int]
) -> np.ndarray:
    """Bicubic resize of a box of ``image`` (h, w, 3) uint8 to ``size`` (height, width)."""
    rows = image.reshape(len(image), 1, -1)[top : top + height]
    down, across = bicubic_weights(height, size[0]), bicubic_weights(width, size[1])
    # As Pillow 13 chooses (found by experiment; earlier ones always filter rows first).
    if height - size[0] > 2 * max(width - size[1], 0):
        rows = _filter(rows, 3 * left, 3 * width, *down)
        return _filter_across(rows, 0, width, across).reshape(*size, 3)
    rows = _filter_across(rows, left, width, across)
    return _filter(rows, 0, 3 * size[1], *down).reshape(*size, 3)


def _filter_across(rows: np.ndarray, left: int, width: int, across: tuple) -> np.ndarray:
    """Filter ``width`` pixels of rows (rows, 1, n) from pixel ``left`` on."""
    columns = cv2.transpose(rows[:, 0, 3 * left : 3 * (left + width)])
    columns = _filter(columns.reshape(width, 3, -1), 0, len(rows), *across)
    return cv2.transpose(columns.reshape(-1, len(rows)))[:, None]
