"""The embedded default: emulated clouds on loopback, behind faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.sandbox.supervisor import Sandbox as Sandbox

__all__ = ["Sandbox"]


def __getattr__(name: str) -> Any:
    # Lazily: every part's process imports this package, and most need none of the supervisor.
    if name == "Sandbox":
        from holdfast.sandbox.supervisor import Sandbox

        return Sandbox
    raise AttributeError(f"module 'holdfast.sandbox' has no attribute {name!r}")
