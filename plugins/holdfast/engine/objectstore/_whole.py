"""What a backend may offer beside obstore: small objects whole, and ranges, by a way that costs less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.engine.objectstore._translate import Call
from holdfast.engine.objectstore.ahead import AHEAD_BYTES, Pending
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectReader, ObjectVersion, PutMode

if TYPE_CHECKING:
    from holdfast.engine.objectstore._obstore import ObstoreStore


class WholeObjects(Protocol):
    """GET and PUT of whole objects. ``path`` is the key in the bucket, checked; ``call`` has the store's own."""

    def begin_get(
        self, call: Call, path: str, if_match: ObjectVersion | None, most_bytes: int
    ) -> Pending[tuple[ObjectInfo, bytes, Attributes] | None]:
        """An object, of exactly this version where one is named; ``None``: it is longer than ``most_bytes``."""

    def begin_range(
        self, call: Call, path: str, if_match: ObjectVersion | None, start: int, end: int
    ) -> Pending[tuple[ObjectInfo, bytes, Attributes] | None]:
        """Some bytes of an object, cut at its end; ``None``: ask in another way, which tells why."""

    def begin_put(
        self, call: Call, path: str, data: bytes, mode: PutMode, said: Mapping[str, Any]
    ) -> Pending[ObjectVersion]:
        """Write an object; ``said`` is what `put_options` gives."""


class PendingOpen:
    """A read on its way."""

    __slots__ = ("_if_match", "_key", "_pending", "_store")

    def __init__(
        self,
        store: ObstoreStore,
        key: str,
        if_match: ObjectVersion | None,
        pending: Pending[tuple[ObjectInfo, bytes, Attributes] | None],
    ) -> None:
        self._store, self._key, self._if_match, self._pending = store, key, if_match, pending

    def result(self) -> ObjectReader:
        """As `ObjectStore.open`."""
        try:
            found = self._pending.result()
        except ObjectNotFound:
            if self._if_match is not None:
                self._store.missed(self._key)
            raise
        return self._store.open(self._key, if_match=self._if_match) if found is None else in_memory(found, AHEAD_BYTES)

    def abandon(self) -> None:
        """Nobody wants it any more."""
        self._pending.abandon()


def in_memory(found: tuple[ObjectInfo, bytes, Attributes], chunk_bytes: int) -> ObjectReader:
    """A read of bytes that are there already."""
    return ObjectReader(found[0], pieces(found[1], chunk_bytes), found[2], is_whole=True)


def pieces(data: bytes, chunk_bytes: int) -> Iterator[bytes]:
    """Bytes in chunks; nothing has none."""
    if len(data) <= chunk_bytes:
        return iter((data,) if data else ())
    return (data[offset : offset + chunk_bytes] for offset in range(0, len(data), chunk_bytes))
