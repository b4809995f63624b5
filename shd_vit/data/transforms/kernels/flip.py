"""Mirror an image."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def flip_horizontally(image):
    """Swap left and right, in place."""
    width = image.shape[1]
    line = np.empty(3 * width, np.uint8)
    for y in range(len(image)):
        row = image[y].reshape(-1)
        for i in range(len(line)):
            line[i] = row[i]
        for x in range(width):
            i, j = 3 * x, 3 * (width - 1 - x)
            row[i], row[i + 1], row[i + 2] = line[j], line[j + 1], line[j + 2]
    return image
