"""No locks: for memory, local folders and what else cannot keep any. It says so, and locks nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from holdfast.engine.objectstore.errors import NotSupported
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.vault.locks.interface import LockCapability, LockedObject, LockMode


class NoLocks:
    """The locks of a store that has none.

    Args:
        store: the store.
        why: why it has none.
    """

    def __init__(self, store: ObjectStore, why: str = "this backend keeps no locks") -> None:
        self._store, self._why = store, why

    @property
    def name(self) -> str:
        return self._store.name

    def capability(self) -> LockCapability:
        return LockCapability(self._store.capabilities().backend, enforces=False, why=self._why)

    def state(self, key: str) -> LockedObject:
        return LockedObject(key, self._store.head(key).modified_at)

    def extend(self, key: str, until: datetime, mode: LockMode) -> None:  # noqa: ARG002
        raise NotSupported(
            "nothing can be locked here",
            where=f"{self.name}: {key}",
            expected="a bucket with object locks",
            found=self._why,
            fix="Keep a mirror of the vault where objects can be locked",
        )

    def objects(self, prefix: str) -> Iterator[LockedObject]:
        for info in self._store.list(prefix):
            yield LockedObject(info.key, info.modified_at)

    def remove(self, key: str) -> None:
        self._store.delete(key)

    def reveal(self, found: LockedObject) -> None:
        raise NotSupported("this backend keeps no older versions", where=f"{self.name}: {found.key}")
