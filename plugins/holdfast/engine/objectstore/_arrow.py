"""Arrow without pandas: the first array pyarrow makes imports pandas where it is installed, though nobody asked.

That costs every process 40 MB and a quarter of a second. Told once that there is none, pyarrow goes on without, and
still imports it when something really needs it (``to_pandas``, ``from_pandas``).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

import pyarrow as pa


class _NoPandas:
    """Finds no pandas for one thread, and everything else as ever."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
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


leave_pandas_alone()
