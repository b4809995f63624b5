"""Mirror an image."""

from __future__ import annotations

from numba import njit


@njit(nogil=True, cache=True)
def flip_horizontally(image):
    """Swap left and right, in place."""
    height, width, _ = image.shape
    for y in range(height):
        row = image[y]
        for x in range(width // 2):
            for c in range(3):
                row[x, c], row[width - 1 - x, c] = row[width - 1 - x, c], row[x, c]
    return image
