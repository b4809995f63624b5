"""Pillow's bicubic affine transforms: shifts of rows, shifts of columns, and rotation.

An output pixel's centre (x + 0.5, y + 0.5) is mapped into the source; outside the source is the
fill colour, and taps past the border repeat it. The cubic has a = -1 (not the -0.5 of resizing),
and values are truncated, not rounded, so sums are float64 like Pillow's
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
    v1, v2, v3, v4 = np.float64(v1), np.float64(v2), np.float64(v3), np.float64(v4)
    return v2 + d * ((v3 - v1) + d * ((2 * (v1 - v2) + v3 - v4) + d * (v2 - v1 + v4 - v3)))


@njit(nogil=True, cache=True)
def _pixel(value):
    return np.uint8(min(max(value, 0.0), 255.0))


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
        d = shift - whole
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
    d, color = np.empty(n), np.empty(n, np.uint8)
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


@njit(nogil=True, cache=True)
def rotate(image, degrees, fill):
    """Rotate by ``degrees`` counterclockwise about the centre.

    Rows of four taps are contiguous, so the cubic runs along columns first (Pillow's runs along
    rows first: the same but for rounding in float64).
    """
    height, width, _ = image.shape
    padded = np.empty((height + 2 * MARGIN, 3 * (width + 2 * MARGIN)), np.uint8)
    for y in range(len(padded)):
        source = image[min(max(y - MARGIN, 0), height - 1)]
        for x in range(width + 2 * MARGIN):
            for c in range(3):
                padded[y, 3 * x + c] = source[min(max(x - MARGIN, 0), width - 1), c]
    angle = -math.radians(degrees)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x_offset = -width / 2 * cos - height / 2 * sin + width / 2
    y_offset = width / 2 * sin - height / 2 * cos + height / 2
    out = np.empty_like(image)
    column = np.empty(12)
    for y in range(height):
        for x in range(width):
            x_in = cos * (x + 0.5) + sin * (y + 0.5) + x_offset
            y_in = -sin * (x + 0.5) + cos * (y + 0.5) + y_offset
            if not (0 <= x_in < width and 0 <= y_in < height):
                out[y, x, 0], out[y, x, 1], out[y, x, 2] = fill
                continue
            left, top = math.floor(x_in - 0.5), math.floor(y_in - 0.5)
            dx, dy = x_in - 0.5 - left, y_in - 0.5 - top
            row, first = int(top) + MARGIN - 1, 3 * (int(left) + MARGIN - 1)
            v1 = padded[row, first : first + 12]
            v2 = padded[row + 1, first : first + 12]
            v3 = padded[row + 2, first : first + 12]
            v4 = padded[row + 3, first : first + 12]
            for i in range(12):
                column[i] = _cubic(v1[i], v2[i], v3[i], v4[i], dy)
            for c in range(3):
                value = _cubic(column[c], column[3 + c], column[6 + c], column[9 + c], dx)
                out[y, x, c] = _pixel(value)
    return out
