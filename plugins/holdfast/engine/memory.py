"""While packs or batches go by, the memory of large blocks is used again instead of going back to the system each time.

What is freed to the system comes back page by page, emptied, each with a fault: for packs and what they are read into,
that takes more processor time than to encrypt them, and for audit events two thirds of what all else of verifying
them takes.
Elsewhere memory does go back (`objectstore._arrow`).
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: From malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KIB = 1024
#: Of a block that is mapped by itself: the largest that glibc takes; and as `objectstore._arrow` has it.
_WHILE_KEPT, _OTHERWISE = 32 * _KIB * _KIB, 512 * _KIB
#: So much is left at the end of a heap, of a thread's too; and glibc's own.
_PAD, _USUAL_PAD = 64 * _KIB * _KIB, 128 * _KIB
_lock = threading.Lock()
_users = 0


@contextmanager
def blocks_kept() -> Iterator[None]:
    """Keep freed blocks in the process until the last who asked for it leaves; then they go back.

    Does nothing where the environment chose a threshold, or the C library is not glibc.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _set(_WHILE_KEPT, 4 * _PAD, _PAD)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _set(_OTHERWISE, _USUAL_PAD, _USUAL_PAD)
                _give_back()


def _set(mapped: int, trim: int, pad: int) -> None:
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for option, value in ((_M_MMAP_THRESHOLD, mapped), (_M_TRIM_THRESHOLD, trim), (_M_TOP_PAD, pad)):
            library.mallopt(option, value)


def _give_back() -> None:
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
