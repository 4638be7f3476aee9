"""Arrow as a small process wants it.

The first array pyarrow makes imports pandas where it is installed, though nobody asked: 40 MB and a quarter of a
second. Told once that there is none, pyarrow goes on without, and still imports it when something really needs it
(``to_pandas``, ``from_pandas``). And its own memory pool keeps what was freed, some 20 MB; the system's does not, when
large blocks are mapped one by one: by itself glibc stops doing that once one was freed, and then keeps them for good.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from contextlib import suppress
from importlib.machinery import ModuleSpec

import pyarrow as pa

#: From malloc.h.
_M_MMAP_THRESHOLD = -3
_MAPPED_BYTES = 512 * 1024


class _NoPandas:
    """Finds no pandas for one thread, and everything else as ever."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name == "pandas" and threading.get_ident() == self._thread:
            raise ModuleNotFoundError("pandas is not needed here", name=name)
        return None


def leave_pandas_alone() -> None:
    """Have pyarrow make arrays without importing pandas. Does nothing where pandas is there already."""
    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(finder)


def give_memory_back() -> None:
    """Have freed tables go back to the system. Whoever chose a pool or a threshold by the environment keeps it."""
    if "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
        pa.set_memory_pool(pa.system_memory_pool())
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ and sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc has no mallopt
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


leave_pandas_alone()
give_memory_back()
