"""What a drill needs from outside: something that can inject a fault and lift it."""

from __future__ import annotations

from typing import Protocol


class FaultInjector(Protocol):
    """Puts a site under a fault. Both calls are idempotent and return when the fault is in or out."""

    @property
    def description(self) -> str:
        """What it acts on, for the journal: an emulator's fault is not a cloud's."""

    def inject(self, site: str, mode: str, **parameters: float | str) -> None: ...

    def clear(self, site: str) -> None: ...
