"""What becomes of memory that is freed: for programs that allocate the same sizes again and again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # names of mallopt(3)
_PAD = 64 << 20  # bytes asked of the system at a time


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, for the next allocation. Returns whether that was arranged.

    glibc gives large blocks back to the system at once, so the arrays of every training step arrive as pages
    that the kernel must clear first. From the call on, memory of the process only grows, up to what is in use
    at one time and what fragments. Where the C library is another nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    # No block by mmap, nothing trimmed: -1 is the largest size_t.
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_TOP_PAD, _PAD)])
