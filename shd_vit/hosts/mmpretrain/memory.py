"""Keeping the C library from giving memory back between training steps."""

from __future__ import annotations

import ctypes

# From malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let this process keep the pages that it frees, for the next step to use.

    By default large tensors come from pages that the kernel hands out and zeroes anew each time. A
    training step on a CPU frees and asks for gigabytes of them.

    Returns:
        False where the C library is not GNU's; nothing is changed there.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 * 2**20))
    return all([mallopt(name, value) for name, value in settings])
