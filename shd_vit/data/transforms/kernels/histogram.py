"""Pillow's autocontrast and equalize: a table a channel, from the channel's values."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def _look_up(flat, tables):
    red, green, blue = tables
    for i in range(0, len(flat), 3):
        flat[i] = red[flat[i]]
        flat[i + 1] = green[flat[i + 1]]
        flat[i + 2] = blue[flat[i + 2]]


@njit(nogil=True, cache=True)
def auto_contrast(image):
    """Stretch each channel to 0..255, in place."""
    rows = image.reshape(len(image), -1)
    low, high = rows[0].copy(), rows[0].copy()
    for row in rows:
        for i in range(len(low)):
            low[i] = min(low[i], row[i])
            high[i] = max(high[i], row[i])
    tables = np.empty((3, 256), np.uint8)
    for channel in range(3):
        lowest, highest = np.int64(low[channel::3].min()), np.int64(high[channel::3].max())
        # A flat channel stays: scale 1, offset 0.
        scale = 255.0 / (highest - lowest) if highest > lowest else 1.0
        offset = -lowest * scale if highest > lowest else 0.0
        for value in range(256):
            tables[channel, value] = min(max(int(value * scale + offset), 0), 255)
    _look_up(image.reshape(-1), tables)
    return image


@njit(nogil=True, cache=True)
def equalize(image):
    """Spread each channel's histogram evenly, in place."""
    flat = image.reshape(-1)
    # Neighbouring pixels are alike: two sets of counters, so that one need not wait for the other.
    counts = np.zeros((2, 3, 256), np.int32)
    pixels = len(flat) // 3
    for pixel in range(pixels):
        side = counts[pixel & 1]
        for channel in range(3):
            side[channel, flat[3 * pixel + channel]] += 1
    tables = np.empty((3, 256), np.uint8)
    for channel in range(3):
        histogram = counts[0, channel] + counts[1, channel]
        used = np.nonzero(histogram)[0]
        step = (pixels - histogram[used[-1]]) // 255
        total = step // 2
        for value in range(256):
            tables[channel, value] = min(total // step, 255) if step else value
            total += histogram[value]
    _look_up(flat, tables)
    return image
