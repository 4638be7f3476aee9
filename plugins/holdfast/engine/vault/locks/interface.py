"""What a lock is, whichever cloud keeps it. A lock is only ever lengthened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable


class LockMode(StrEnum):
    """Who can lift a lock before its time."""

    #: Nobody: S3 COMPLIANCE, Google and Azure Locked.
    COMPLIANCE = "compliance"
    #: Who has a right of its own for that: S3 GOVERNANCE, Google and Azure Unlocked.
    GOVERNANCE = "governance"


@dataclass(frozen=True, slots=True)
class LockCapability:
    """Whether locks hold here.

    Args:
        backend: ``s3``, ``gcs``, ``azure`` or what else it is.
        enforces: the bucket says that it keeps locks. Whether it does, only a delete that is tried tells.
        why: how this is known.
    """

    backend: str
    enforces: bool
    why: str


@dataclass(frozen=True, slots=True)
class LockedObject:
    """One version of an object and its lock.

    Args:
        key: relative to the store.
        written_at: by the store's clock.
        until: when its lock ends, by the store's clock; ``None``: it has none.
        mode: of the lock.
        hidden: something was put over it, or it was deleted: it is there as an older version only.
        version: the store's own name of this version.
    """

    key: str
    written_at: datetime
    until: datetime | None = None
    mode: LockMode | None = None
    hidden: bool = False
    version: str | None = None


@runtime_checkable
class ObjectLocks(Protocol):
    """The locks of one store. All calls may be made from many threads; errors are the object store's."""

    @property
    def name(self) -> str:
        """Whose locks these are, in messages."""

    def capability(self) -> LockCapability:
        """What the bucket says of itself."""

    def state(self, key: str) -> LockedObject:
        """The current version's lock. Raises ObjectNotFound."""

    def extend(self, key: str, until: datetime, mode: LockMode) -> None:
        """Lock the current version until then, unless it is locked as long and as firmly already.

        Raises:
            NotSupported: nothing can be locked here.
            ObjectNotFound, PermissionRefused, StoreUnavailable.
        """

    def objects(self, prefix: str) -> Iterator[LockedObject]:
        """All versions of all objects whose key starts so; of one object from the oldest to the newest."""

    def remove(self, key: str) -> None:
        """Remove all versions for good. Raises PermissionRefused, changing nothing, while one of them is locked."""

    def reveal(self, found: LockedObject) -> None:
        """Make a hidden version the current one again. Raises NotSupported."""
