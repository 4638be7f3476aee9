"""Locks: what keeps an object from being removed or changed until a moment, in each cloud's own way."""

from __future__ import annotations

from holdfast.engine.vault.locks.interface import (
    LockCapability,
    LockedObject,
    LockMode,
    ObjectLocks,
)
from holdfast.engine.vault.locks.none import NoLocks
from holdfast.engine.vault.locks.opening import open_locks
from holdfast.engine.vault.locks.policy import LockPolicy, Protector
from holdfast.engine.vault.locks.report import LockProblem, LockReport, RenewReport, lock_report, renew_locks

__all__ = [
    "LockCapability",
    "LockMode",
    "LockPolicy",
    "LockProblem",
    "LockReport",
    "LockedObject",
    "NoLocks",
    "ObjectLocks",
    "Protector",
    "RenewReport",
    "lock_report",
    "open_locks",
    "renew_locks",
]
