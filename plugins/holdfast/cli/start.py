"""How a process of ours begins: with what it needs, and nothing that runs beside it."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress

#: From malloc.h.
_M_ARENA_MAX = -8
_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def load_arrow() -> None:
    """Import Arrow without threads for linear algebra.

    Arrow imports numpy, whose OpenBLAS starts a thread for every core, which then spins for a while: a tenth of a
    second of processor time for nothing. It reads the variable when it is loaded, so that children do not inherit it.
    Only for a process of our own: in somebody else's it would slow down their numpy.
    """
    if "numpy" in sys.modules or _BLAS_THREADS in os.environ:
        return
    os.environ[_BLAS_THREADS] = "1"
    try:
        import pyarrow  # noqa: F401
    finally:
        del os.environ[_BLAS_THREADS]


def few_arenas() -> None:
    """Have threads share two places to allocate from, instead of each keeping what it once used.

    Only for a process of our own: threads of others may allocate more than ours do.
    """
    if "MALLOC_ARENA_MAX" not in os.environ and sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc has no mallopt
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def few_collections() -> None:
    """Look for garbage in circles less often: while hundreds of modules are imported there is none to find."""
    gc.set_threshold(20_000, 20, 20)
