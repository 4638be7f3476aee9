"""May this epoch still write? Asked immediately before every manifest is committed."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Permission(StrEnum):
    """What a guard says. ``HELD`` is not known: keep the work, write nothing, ask again."""

    GRANTED = "granted"
    HELD = "held"
    FENCED = "fenced"


class WriteGuard(Protocol):
    """Knows from the authority whether an epoch's writes still count.

    ``GRANTED`` only while a majority was read within T_fence and names this epoch and site; ``FENCED`` once a newer
    epoch was seen; ``HELD`` when no majority answered for so long that a newer epoch may exist unseen.
    """

    def permission(self) -> Permission:
        """Answers from memory or within a bounded time; never raises."""


class AlwaysGranted:
    """For runs without a register: a reference run in a scratch folder, a notebook, a test."""

    def permission(self) -> Permission:
        return Permission.GRANTED
