"""Pillow's bicubic rotation, in float32.

Each row of the output gathers its 16 taps a pixel into planes, 4 bytes at a time, and then sums
planes along contiguous memory, which vectorises.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from shd_vit.data.transforms.kernels.warp import MARGIN

# Pillow truncates float64 sums. This, above float32's error here, keeps a sum that is an integer
# (a flat area's) from falling below it.
NUDGE = np.float32(1 / 8192)


@njit(nogil=True, cache=True)
def rotate(image, degrees, fill):
    """Rotate by ``degrees`` counterclockwise about the centre.

    Args:
        image: (h, w, 3) uint8.
        degrees: Float.
        fill: Three bytes, the colour outside the image.
    """
    height, width, _ = image.shape
    words = _padded(image)
    angle = -math.radians(degrees)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    # In Pillow's order of operations, so that the same pixels are outside.
    x_offset = -cos * width / 2 - sin * height / 2 + width / 2
    y_offset = sin * width / 2 - cos * height / 2 + height / 2
    out = np.empty_like(image)
    first = np.empty(width, np.int32)
    dx, dy = np.empty(width, np.float32), np.empty(width, np.float32)
    planes = np.empty((16, width), np.uint32)
    bytes_out = np.empty(4 * width, np.uint8)
    for y in range(height):
        for x in range(width):
            x_in = cos * (x + 0.5) + sin * (y + 0.5) + x_offset
            y_in = -sin * (x + 0.5) + cos * (y + 0.5) + y_offset
            outside = x_in < 0 or x_in >= width or y_in < 0 or y_in >= height
            # Outside, any pixel will do.
            x_in, y_in = min(max(x_in, 0.0), width) - 0.5, min(max(y_in, 0.0), height) - 0.5
            left, top = math.floor(x_in), math.floor(y_in)
            dx[x], dy[x] = x_in - left, y_in - top
            index = (top + MARGIN - 1) * words.shape[1] + left + MARGIN - 1
            first[x] = -1 if outside else index
        for tap in range(16):
            plane = planes[tap]
            offset = tap // 4 * words.shape[1] + tap % 4
            flat = words.reshape(-1)[offset:]
            for x in range(width):
                plane[x] = flat[max(first[x], 0)]
        _sum(planes.view(np.uint8), dx, dy, bytes_out)
        for x in range(width):
            if first[x] >= 0:
                out[y, x, 0], out[y, x, 1] = bytes_out[4 * x], bytes_out[4 * x + 1]
                out[y, x, 2] = bytes_out[4 * x + 2]
            else:
                out[y, x, 0], out[y, x, 1], out[y, x, 2] = fill
    return out


@njit(nogil=True, cache=True)
def _padded(image):
    """The image with its border repeated, one 4-byte word a pixel."""
    height, width, _ = image.shape
    words = np.zeros((height + 2 * MARGIN, width + 2 * MARGIN), np.uint32)
    for y in range(len(words)):
        source, line = image[min(max(y - MARGIN, 0), height - 1)], words[y]
        for x in range(width):
            line[MARGIN + x] = source[x, 0] | source[x, 1] << 8 | source[x, 2] << 16
        line[:MARGIN], line[MARGIN + width :] = line[MARGIN], line[MARGIN + width - 1]
    return words


@njit(nogil=True, cache=True, fastmath={'contract'})
def _sum(planes, dx, dy, out):
    """Planes (16, 4 w) of taps, weighed across and down, truncated to bytes ``out`` (4 w,)."""
    n = len(out)
    across, down = np.empty(n, np.float32), np.empty(n, np.float32)
    total = np.full(n, NUDGE)
    for x in range(len(dx)):
        for i in range(4 * x, 4 * x + 4):  # the same for the 4 bytes of a pixel
            across[i], down[i] = dx[x], dy[x]
    for row in range(4):
        p0, p1, p2, p3 = planes[4 * row : 4 * row + 4]
        # Weights are made where they are used: more arrays, and the loop would not vectorise.
        for i in range(n):
            a = across[i]
            line = _weight(0, a) * p0[i] + _weight(1, a) * p1[i]
            line += _weight(2, a) * p2[i] + _weight(3, a) * p3[i]
            total[i] += _weight(row, down[i]) * line
    for i in range(n):
        out[i] = np.uint8(min(max(total[i], np.float32(0)), np.float32(255)))


@njit(nogil=True, cache=True)
def _weight(tap, d):
    """Of one of four taps, ``d`` past the second: cubic convolution with a = -1."""
    one, two = np.float32(1), np.float32(2)
    if tap == 0:
        return d * (d * (two - d) - one)
    if tap == 1:
        return d * d * (d - two) + one
    if tap == 2:
        return d * (d * (one - d) + one)
    return d * d * (d - one)
