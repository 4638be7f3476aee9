"""Holdfast keeps machine-learning pipelines alive when a cloud is lost, and proves it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.engine.checkpoint.checkpointer import Checkpointer as Checkpointer

__version__ = "0.1.0.dev0"

# Lazy (PEP 562): Airflow imports this package to discover the provider, and a training container imports it
# for the Checkpointer alone. Neither may pay for the other's imports.
_LAZY = {"Checkpointer": "holdfast.engine.checkpoint.checkpointer"}

__all__ = ["Checkpointer", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
