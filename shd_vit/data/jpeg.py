"""JPEG decoding with the libturbojpeg that FFCV is linked with; unlike FFCV's, it reports errors.

FFCV drops the return code, and a damaged image shows whatever its buffer held before.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache

import numpy as np

from shd_vit.data.ffcv_library import ffcv_library

# turbojpeg.h, the 2.x API, which 3.x still has. The default DCT is Pillow's (FFCV's is the fast,
# less accurate one).
PIXEL_FORMAT = {'rgb': 0, 'bgr': 1, 'grayscale': 6}
STOP_ON_WARNING = 8192


class JPEGError(ValueError):
    """Bytes that are not a whole JPEG of the recorded size."""


def decode(
    data: bytes,
    height: int,
    width: int,
    out: np.ndarray,
    channel_order: str,
    box: tuple[int, int, int, int] | None = None,
) -> None:
    """Decode a JPEG into ``out`` (height, width, C), uint8 and contiguous. Holds no GIL.

    Args:
        channel_order: 'rgb' or 'bgr', that of ``out``; 'grayscale', of one channel: the luminance.
        box: Top, left, height and width of what is needed; other pixels of ``out`` are written or
            left as they were. Saves time where the JPEG has tiles (``shd_vit.data.tiles``).

    Raises:
        JPEGError: If the image has another size, or if any byte of it made the decoder complain.
    """
    shape = height, width, 1 if channel_order == 'grayscale' else 3
    if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f'out must be contiguous uint8 of {shape}, got {out.shape}')
    target, pitch = out.ctypes.data, shape[2] * width
    found = None
    if box is not None:
        from shd_vit.data.tiles import part  # numba, which importing shd_vit does without

        found = part(data, height, width, box)
    if found:
        tiles, top, left, height, width = found
        data = tiles.tobytes()
        target += top * pitch + shape[2] * left
    else:
        _check_size(data, height, width)
    if _library().tjDecompress2(
        _handle(), data, len(data), target, width, pitch, height, PIXEL_FORMAT[channel_order],
        STOP_ON_WARNING,
    ):  # fmt: skip
        raise JPEGError(_library().tjGetErrorStr2(_handle()).decode())


def _check_size(data: bytes, height: int, width: int) -> None:
    """turbojpeg scales an image of another size."""
    size = [ctypes.c_int() for _ in range(4)]  # width, height, subsampling, colour space
    if _library().tjDecompressHeader3(_handle(), data, len(data), *map(ctypes.byref, size)):
        raise JPEGError(_library().tjGetErrorStr2(_handle()).decode())
    if (size[0].value, size[1].value) != (width, height):
        raise JPEGError(
            f'JPEG of {size[0].value}x{size[1].value} pixels where {width}x{height} were recorded'
        )


@cache
def _library() -> ctypes.CDLL:
    # Names are looked up in what the library is linked with, too.
    library = ctypes.CDLL(str(ffcv_library()))
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    library.tjInitDecompress.restype = pointer
    library.tjDestroy.argtypes = [pointer]
    library.tjGetErrorStr2.argtypes = [pointer]
    library.tjGetErrorStr2.restype = ctypes.c_char_p
    library.tjDecompressHeader3.argtypes = [
        pointer, ctypes.c_char_p, ctypes.c_ulong, *[ctypes.POINTER(integer)] * 4
    ]  # fmt: skip
    library.tjDecompress2.argtypes = [
        pointer, ctypes.c_char_p, ctypes.c_ulong, pointer, *[integer] * 5
    ]  # fmt: skip
    return library


class _Decompressor:
    def __init__(self) -> None:
        library = _library()
        self.handle = library.tjInitDecompress()
        if not self.handle:
            raise MemoryError('libturbojpeg could not make a decompressor')
        self._destroy = library.tjDestroy  # globals are gone when the interpreter ends

    def __del__(self) -> None:
        self._destroy(self.handle)


_thread = threading.local()


def _handle() -> int:
    """This thread's decompressor, which ends with the thread."""
    if not hasattr(_thread, 'decompressor'):
        _thread.decompressor = _Decompressor()
    return _thread.decompressor.handle
