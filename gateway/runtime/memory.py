"""Memory of the process."""

from __future__ import annotations

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3
"""Name of the option in glibc's malloc.h."""
LARGE_BLOCK_BYTES = 256 * 1024


def return_large_blocks() -> None:
    """Makes the C library return large blocks to the system when they are freed.

    By default it raises its bound to the largest block that was freed, up to 32 MB. A few large
    requests would then leave their memory with the process, in pieces. Other C libraries than
    glibc have no such option and are left as they are.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
