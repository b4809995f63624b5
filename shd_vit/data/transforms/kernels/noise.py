"""Fill a rectangle with random bytes."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def fill_noise(image, top, left, height, width, tables, seed):
    """Fill with ``tables[channel, u]``, u uniform in 0..65535, in place.

    One word of SplitMix64 (Steele et al., https://doi.org/10.1145/2660193.2660195) makes a pixel.

    Args:
        image: (h, w, 3) uint8.
        top, left, height, width: The rectangle.
        tables: (3, 65536) uint8, quantiles of each channel.
        seed: int64.
    """
    state = np.uint64(seed)
    for y in range(top, top + height):
        for x in range(left, left + width):
            state += np.uint64(0x9E3779B97F4A7C15)
            word = state
            word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            word ^= word >> np.uint64(31)
            image[y, x, 0] = tables[0, word & np.uint64(0xFFFF)]
            image[y, x, 1] = tables[1, (word >> np.uint64(16)) & np.uint64(0xFFFF)]
            image[y, x, 2] = tables[2, (word >> np.uint64(32)) & np.uint64(0xFFFF)]
    return image
