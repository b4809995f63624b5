"""Pillow's bicubic shears and translations, as shifts of rows or columns.

An output pixel's centre (x + 0.5, y + 0.5) is mapped into the source; outside the source is the
fill colour, and taps past the border repeat it. The cubic has a = -1 (not the -0.5 of resizing),
and values are truncated, not rounded
(https://github.com/python-pillow/Pillow/blob/12.0.0/src/libImaging/Geometry.c).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

MARGIN = 3  # repeated border pixels: two that taps reach, one for rounding of the bounds


@njit(nogil=True, cache=True)
def _cubic(v1, v2, v3, v4, d):
    """The cubic through v2 (d = 0) and v3 (d = 1)."""
    v1, v2, v3, v4 = np.float32(v1), np.float32(v2), np.float32(v3), np.float32(v4)
    rise, bend = v3 - v1, v1 - v2  # small integers: exact, so that flat areas stay flat
    return v2 + d * (rise + d * ((bend + bend + v3 - v4) + d * (v4 - v3 - bend)))


@njit(nogil=True, cache=True)
def _pixel(value):
    return np.uint8(min(max(value, np.float32(0)), np.float32(255)))


@njit(nogil=True, cache=True)
def _inside(shift, size):
    """The outputs i with 0 <= i + 0.5 + shift < size, as a range."""
    start = math.ceil(-0.5 - shift)
    stop = math.ceil(size - 0.5 - shift)
    return int(min(max(start, 0), size)), int(min(max(stop, 0), size))


@njit(nogil=True, cache=True)
def shift_rows(image, slope, offset, fill):
    """Output (y, x) is the source at x + slope * (y + 0.5) + offset: shear and translation in x.

    Args:
        image: (h, w, 3) uint8.
        slope: Pixels a row.
        offset: Pixels.
        fill: Three bytes.
    """
    height, width, _ = image.shape
    out = np.empty_like(image)
    line = np.empty(3 * (width + 2 * MARGIN), np.uint8)
    for y in range(height):
        source, target = image[y].reshape(-1), out[y].reshape(-1)
        line[3 * MARGIN : 3 * (MARGIN + width)] = source
        for i in range(3 * MARGIN):
            line[i] = source[i % 3]
            line[3 * (MARGIN + width) + i] = source[3 * (width - 1) + i % 3]
        shift = slope * (y + 0.5) + offset
        start, stop = _inside(shift, width)
        for x in range(width):
            if x < start or x >= stop:
                out[y, x, 0], out[y, x, 1], out[y, x, 2] = fill
        whole = math.floor(shift)
        d = np.float32(shift - whole)
        first = 3 * (start + int(whole) + MARGIN - 1)
        n = 3 * (stop - start)
        if n > 0:
            v1, v2 = line[first : first + n], line[first + 3 : first + 3 + n]
            v3, v4 = line[first + 6 : first + 6 + n], line[first + 9 : first + 9 + n]
            inner = target[3 * start : 3 * stop]
            for i in range(n):
                inner[i] = _pixel(_cubic(v1[i], v2[i], v3[i], v4[i], d))
    return out


@njit(nogil=True, cache=True)
def shift_columns(image, slope, offset, fill):
    """Output (y, x) is the source at y + slope * (x + 0.5) + offset: shear and translation in y.

    Columns are first moved by whole pixels; then the cubic runs along rows. Arguments as those of
    :func:`shift_rows`, ``slope`` in pixels a column.
    """
    height, width, _ = image.shape
    n = 3 * width
    source, out = image.reshape(height, n), np.empty((height, n), np.uint8)
    whole, start, stop = np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n, np.int32)
    d, color = np.empty(n, np.float32), np.empty(n, np.uint8)
    for i in range(n):
        shift = slope * (i // 3 + 0.5) + offset
        whole[i] = math.floor(shift)
        d[i] = shift - whole[i]
        start[i], stop[i] = _inside(shift, height)
        color[i] = fill[i % 3]
    moved = np.empty((height + 3, n), np.uint8)
    for y in range(height + 3):
        line = moved[y]
        for i in range(n):
            line[i] = source[min(max(y - 1 + whole[i], 0), height - 1), i]
    for y in range(height):
        v1, v2, v3, v4 = moved[y], moved[y + 1], moved[y + 2], moved[y + 3]
        line = out[y]
        for i in range(n):
            value = _pixel(_cubic(v1[i], v2[i], v3[i], v4[i], d[i]))
            line[i] = value if start[i] <= y < stop[i] else color[i]
    return out.reshape(height, width, 3)
