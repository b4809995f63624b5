"""JPEGs that can be decoded in part.

A baseline JPEG may restart its entropy coder after every so many blocks (ITU-T T.81, B.2.1). What
lies between two restarts stands for itself: the tiles that a crop touches, put together under the
same header with another height and width, are a JPEG of that part of the image. Random crops read
about half of an image, and decoding is most of a loader's work.

Where the tiles begin is written after the JPEG's end, where no decoder looks.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np
from numba import njit

MCU = 16  # pixels, the side of the blocks of a JPEG with chroma halved both ways, as cv2's are
WIDEST = 4  # blocks of a tile; a restart costs some 4 bytes
# After the offsets: that of the header's height and width, tiles across, blocks a tile, magic.
TRAILER = struct.Struct('<IHH8s')
MAGIC = b'JPGtiles'


def encode(pixels: np.ndarray, quality: int) -> np.ndarray:
    """A JPEG of RGB pixels (h, w, 3) uint8, with its table of tiles: bytes (n,) uint8."""
    height, width = pixels.shape[:2]
    blocks = -(-width // MCU)
    tile = max(n for n in range(1, WIDEST + 1) if blocks % n == 0)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, tile]
    good, jpeg = cv2.imencode('.jpg', cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    if not good:
        raise ValueError('cannot be encoded as a JPEG')
    jpeg = jpeg.reshape(-1)
    size_at, coded_at = _header(jpeg.tobytes())
    coded = jpeg[coded_at:]
    restarts = np.flatnonzero((coded[:-1] == 0xFF) & ((coded[1:] & 0xF8) == 0xD0))
    across, down = blocks // tile, -(-height // MCU)
    if len(restarts) + 1 != across * down:
        raise ValueError(f'OpenCV made {len(restarts) + 1} tiles of {across}x{down}')
    offsets = np.array([coded_at, *(coded_at + 2 + restarts), len(jpeg)], '<u4')
    trailer = TRAILER.pack(size_at, across, tile, MAGIC)
    return np.concatenate([jpeg, offsets.view(np.uint8), np.frombuffer(trailer, np.uint8)])


def _header(jpeg: bytes) -> tuple[int, int]:
    """Where a baseline JPEG has its height and width, and where its coded blocks begin."""
    at, size_at = 2, 0
    while True:
        marker, length = struct.unpack_from('>HH', jpeg, at)
        if marker == 0xFFC0:
            size_at = at + 5
        at += 2 + length
        if marker == 0xFFDA:
            return size_at, at


def part(
    data: bytes, height: int, width: int, box: tuple[int, int, int, int]
) -> tuple[np.ndarray, int, int, int, int] | None:
    """The tiles of a JPEG (height, width) that a box of it needs, as a JPEG.

    One pixel around the box is included: upsampled chroma depends on its neighbours. With it, the
    box decodes to the same bits as in the whole image.

    Args:
        box: Top, left, height, width.

    Returns:
        The bytes (n,) uint8, and the box that they hold; None if ``data`` has no tiles, or if what
        its table says of them cannot be.
    """
    if not data.endswith(MAGIC):
        return None
    found = _part(np.frombuffer(data, np.uint8), height, width, *box)
    return found if len(found[0]) else None


@njit(nogil=True, cache=True)
def _part(data, height, width, top, left, box_height, box_width):
    trailer = len(data) - 16  # TRAILER.size
    size_at = _number(data, trailer, 4)
    across, tile = _number(data, trailer + 4, 2), _number(data, trailer + 6, 2)
    tile_width = tile * MCU
    table = trailer - 4 * (across * ((height + MCU - 1) // MCU) + 1)
    first_row, last_row = max(top - 1, 0) // MCU, min(top + box_height, height - 1) // MCU
    bottom, right = min((last_row + 1) * MCU, height), width
    first_column, last_column = 0, -1
    if tile_width:
        first_column = max(left - 1, 0) // tile_width
        last_column = min(left + box_width, width - 1) // tile_width
        right = min((last_column + 1) * tile_width, width)
        if right - first_column * tile_width <= 4 and first_column:
            first_column -= 1  # chroma of 2 pixels or less is upsampled in another way
    top, left = first_row * MCU, first_column * tile_width

    out = np.empty(len(data), np.uint8)
    failed = out[:0], 0, 0, 0, 0
    if table < 0 or last_column >= across or first_column > last_column:
        return failed
    n = _number(data, table, 4)
    if not 0 < size_at <= n - 4 <= table:
        return failed
    out[:n] = data[:n]
    for at, old, new in ((size_at, height, bottom - top), (size_at + 2, width, right - left)):
        if data[at] != old >> 8 or data[at + 1] != old & 255:
            return failed
        out[at], out[at + 1] = new >> 8, new & 255
    count = 0
    for row in range(first_row, last_row + 1):
        for column in range(first_column, last_column + 1):
            entry = table + 4 * (row * across + column)
            begin, end = _number(data, entry, 4), _number(data, entry + 4, 4) - 2
            if begin > end or end > table or n + end - begin + 2 > len(out):
                return failed
            out[n : n + end - begin] = data[begin:end]
            n += end - begin
            out[n], out[n + 1] = 0xFF, 0xD0 + count % 8  # restarts count from 0 again
            n += 2
            count += 1
    out[n - 1] = 0xD9  # the last marker is the image's end
    return out[:n], top, left, bottom - top, right - left


@njit(nogil=True, cache=True)
def _number(data, at, size):
    """A little-endian number."""
    value = 0
    for i in range(size):
        value |= np.int64(data[at + i]) << (8 * i)
    return value
