"""Pillow's antialiased bicubic resize of a box of an image, bit for bit.

Pillow filters 8-bit images with weights of 22 fractional bits, one axis after the other, rounding
to 8 bits after each (https://github.com/python-pillow/Pillow/blob/12.0.0/src/libImaging/Resample.c).
Columns of an interleaved image are filtered along contiguous memory, which vectorises; rows are
not, so the box is transposed, filtered by the same kernel and transposed back.
"""

from __future__ import annotations

import functools
import math

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
def _transpose(source, left, columns):
    """Columns of bytes (rows, n), as rows; sixteen values at a time fill a vector."""
    rows = source.shape[0]
    target = np.empty((columns, rows), np.uint8)
    if rows < 16:
        for column in range(columns):
            for row in range(rows):
                target[column, row] = source[row, left + column]
        return target
    for block in range(0, rows, 16):
        top = min(block, rows - 16)  # the last block overlaps the one before
        lines = source[top : top + 16]
        for column in range(columns):
            vector = target[column, top : top + 16]
            for row in range(16):
                vector[row] = lines[row, left + column]
    return target


@njit(nogil=True, cache=True)
def _down(source, left, first, weights, target):
    """Filter the first axis of bytes (rows, k, left + n or more) into ``target`` (out, k, n)."""
    last = source.shape[0] - 1
    n = target.shape[2]
    right = left + n
    total = np.empty(n, np.int32)
    for out in range(target.shape[0]):
        for k in range(target.shape[1]):
            for i in range(n):
                total[i] = 1 << (PRECISION - 1)
            for tap in range(0, weights.shape[1], GROUP):
                row = first[out] + tap
                k0, k1, k2, k3 = weights[out, tap : tap + GROUP]
                s0 = source[min(row, last), k, left:right]
                s1 = source[min(row + 1, last), k, left:right]
                s2 = source[min(row + 2, last), k, left:right]
                s3 = source[min(row + 3, last), k, left:right]
                for i in range(n):
                    total[i] += k0 * s0[i] + k1 * s1[i] + k2 * s2[i] + k3 * s3[i]
            line = target[out, k]
            for i in range(n):
                line[i] = min(max(total[i] >> PRECISION, 0), 255)


@njit(nogil=True, cache=True)
def _across(source, left, width, first, weights):
    """Filter ``width`` pixels of rows of interleaved bytes (rows, n), from byte ``left`` on."""
    columns = _transpose(source, left, 3 * width).reshape(width, 3, -1)
    target = np.empty((len(first), 3, len(source)), np.uint8)
    _down(columns, 0, first, weights, target)
    return _transpose(target.reshape(-1, len(source)), 0, len(source))


@njit(nogil=True, cache=True)
def resize(image, top, left, height, width, across, across_weights, down, down_weights):
    """Bicubic resize of a box of ``image`` (h, w, 3) uint8.

    ``across, across_weights`` and ``down, down_weights`` are :func:`bicubic_weights` of the box's
    width and height.
    """
    rows = image.reshape(len(image), -1)[top : top + height]
    out_height, out_width = len(down), len(across)
    # As Pillow 13 chooses (found by experiment; earlier ones always filter rows first).
    if height - out_height > 2 * max(width - out_width, 0):
        low = np.empty((out_height, 1, 3 * width), np.uint8)
        _down(rows.reshape(height, 1, -1), 3 * left, down, down_weights, low)
        out = _across(low.reshape(out_height, -1), 0, width, across, across_weights)
        return out.reshape(out_height, out_width, 3)
    narrow = _across(rows, 3 * left, width, across, across_weights)
    wide = np.empty((out_height, 1, 3 * out_width), np.uint8)
    _down(narrow.reshape(height, 1, -1), 0, down, down_weights, wide)
    return wide.reshape(out_height, out_width, 3)
