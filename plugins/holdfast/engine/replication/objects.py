"""Copy one object: pinned at the source, hashed on its way, created at the target, read back there.

Where a replica's bytes land:

- at their own key ``data/<path>/<relative path>`` when nothing lies there, created and never overwritten;
- under ``.versions/<digest>/`` when other bytes lie at their own key, when they are too big for one create-only put
  (no cloud's streamed put is create-only through this interface), or when the store keeps no metadata.

An object at its own key carries metadata naming the snapshot it came with: a replication that was cut off leaves
such objects, and the next `take` at this site must not mistake them for new data.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from holdfast.clock import Clock
from holdfast.engine.objectstore.errors import (
    BytesCorrupted,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreUnavailable,
)
from holdfast.engine.objectstore.interface import (
    CREATE,
    OVERWRITE,
    IfMatch,
    ObjectInfo,
    ObjectReader,
    ObjectStore,
    ObjectVersion,
)
from holdfast.engine.replication.errors import ReplicaDamaged, SourceChanged, SourceDamaged
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import Hasher, hash_stream
from holdfast.engine.snapshot.manifest import ManifestEntry
from holdfast.engine.snapshot.placement import Placed, replica_metadata, same_version
from holdfast.engine.snapshot.records import CommitRecord

#: Up to here an object is put whole and create-only; above it is streamed.
WHOLE_BYTES = 32 * 1024 * 1024
#: So many bytes of whole objects are in memory at once, whatever the number of threads.
BUDGET_BYTES = 64 * 1024 * 1024
#: How often the copy of one object is begun again after a broken or wrong transfer.
ATTEMPTS = 3
_BACKOFF_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Landed:
    """Where an object lies at the target, and what it took."""

    entry: ManifestEntry
    key: str
    how: Literal["carried", "found", "copied"]


class ObjectCopier:
    """Brings single objects of one snapshot to one target. Safe to use from many threads."""

    def __init__(
        self,
        source: ObjectStore,
        target: ObjectStore,
        record: CommitRecord,
        *,
        placed: dict[str, Placed],
        base: dict[str, Placed],
        listed: dict[str, ObjectInfo],
        clock: Clock,
    ) -> None:
        """
        Args:
            placed: where the objects lie at the source.
            base: where the newest earlier snapshot's objects lie at the target.
            listed: everything in the target's folder, by key.
        """
        self._source, self._target, self._record, self._clock = source, target, record, clock
        self._placed, self._base, self._listed = placed, base, listed
        self._budget = _Budget(BUDGET_BYTES)
        self._keeps_metadata = target.capabilities().metadata is True
        self._streams_create = target.capabilities().create_only_streamed is True
        self._pins = target.capabilities().pinned_reads is True

    def bring(self, entry: ManifestEntry) -> Landed:
        """Have one object at the target, verified there.

        Raises:
            SourceChanged: its bytes are gone at the source.
            SourceDamaged: the source gives wrong bytes.
            ReplicaDamaged: the target keeps giving back wrong bytes.
            StoreUnavailable: a store did not answer.
        """
        if (carried := self._carried(entry)) is not None:
            return Landed(entry, carried, "carried")
        own = keys.object_key(self._record.path, entry.path)
        spare = keys.version_key(self._record.path, entry.path, entry.digest)
        for key in (own, spare):
            info = self._listed.get(key)
            if info is not None and info.size_bytes == entry.size_bytes and self._is_there(key, entry):
                return Landed(entry, key, "found")
        whole = entry.size_bytes <= WHOLE_BYTES or self._streams_create
        if own not in self._listed and whole and self._keeps_metadata and self._persist(entry, own):
            return Landed(entry, own, "copied")
        self._persist(entry, spare)
        return Landed(entry, spare, "copied")

    def _carried(self, entry: ManifestEntry) -> str | None:
        """The key of bytes that were read back for an earlier snapshot and have not changed since."""
        known = self._base.get(entry.path)
        if known is None or known.key is None or known.digest != entry.digest or not self._pins:
            return None
        info = self._listed.get(known.key)
        return known.key if info is not None and known.is_still(info) else None

    def _is_there(self, key: str, entry: ManifestEntry) -> bool:
        try:
            return hash_stream(self._target.open(key)).digest == entry.digest
        except ObjectNotFound:
            return False

    def _persist(self, entry: ManifestEntry, key: str) -> bool:
        """Copy until the bytes read back right. ``False`` when other bytes hold a key that is create-only."""
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                mine = self._copy(entry, key)
                if self._is_there(key, entry):
                    return True
                if not mine:
                    return False
            except SourceChanged:
                raise
            except (StoreUnavailable, BytesCorrupted, SourceDamaged):
                if last:
                    raise
            self._clock.sleep(_BACKOFF_SECONDS * 2**attempt)
        if not _is_spare(key):
            return False  # what we wrote at the object's own key is bad and stays a leftover
        raise ReplicaDamaged(
            "bytes written here read back as other bytes",
            where=f"{self._target.name}: {key}",
            expected=entry.digest,
            found=f"something else, {ATTEMPTS} times",
            fix="Have this store and the way to it checked; nothing was committed",
        )

    def _copy(self, entry: ManifestEntry, key: str) -> bool:
        """One transfer. ``False`` when a create-only key was taken already."""
        if _is_spare(key) and entry.size_bytes > WHOLE_BYTES:
            # The digest in the key says what lies here, so whoever else writes it writes the same bytes.
            self._target.put(key, self._checked(entry), mode=OVERWRITE)
            return True
        with self._budget.taken(min(entry.size_bytes, BUDGET_BYTES)):
            if _is_spare(key):
                self._target.put(key, b"".join(self._checked(entry)), mode=OVERWRITE)
                return True
            try:
                self._create(entry, key, b"".join(self._checked(entry)))
            except ObjectExists:
                return False
            except StoreUnavailable as lost:
                if not lost.outcome_unknown:
                    raise
        return True

    def _create(self, entry: ManifestEntry, key: str, data: bytes) -> None:
        metadata = replica_metadata(self._record.snapshot_id, entry.path)
        version = self._target.put(key, data, mode=CREATE, metadata=metadata)
        if self._target.capabilities().compare_and_swap is not True or self._is_there(key, entry):
            return
        # Bent on its way in: mend exactly the object just made, if nobody touched it since.
        try:
            self._target.put(key, data, mode=IfMatch(version), metadata=metadata)
        except PreconditionFailed:
            return

    def _checked(self, entry: ManifestEntry) -> Iterator[bytes]:
        """The source's bytes, pinned; the last chunk is followed by an error unless the digest is right."""
        place = self._placed.get(entry.path)
        key = place.key if place is not None and place.key else keys.object_key(self._record.path, entry.path)
        pin = place.object_version if place is not None else None
        reader = self._open(entry, key, pin)
        hasher = Hasher()
        try:
            yield from hasher.through(reader)
        except PreconditionFailed:
            raise self._changed(entry, key, "another version in the middle of the read") from None
        if hasher.digest == entry.digest:
            return
        if pin is None or not same_version(reader.info.version, pin):
            raise self._changed(entry, key, hasher.digest)
        raise SourceDamaged(
            "the source's bytes are not the snapshot's, though their version is the same",
            where=f"{self._source.name}: {key}",
            expected=entry.digest,
            found=hasher.digest,
            fix="Verify the snapshot at its source; if it is damaged there, take a new one",
        )

    def _open(self, entry: ManifestEntry, key: str, pin: ObjectVersion | None) -> ObjectReader:
        try:
            try:
                return self._source.open(key, if_match=pin)
            except PreconditionFailed:
                return self._source.open(key)  # overwritten, but perhaps with the same bytes: the digest tells
        except ObjectNotFound:
            raise self._changed(entry, key, "nothing") from None

    def _changed(self, entry: ManifestEntry, key: str, found: str) -> SourceChanged:
        return SourceChanged(
            "the object was overwritten or removed after the snapshot was taken",
            where=f"{self._source.name}: {key}",
            expected=f"{entry.digest} of snapshot {self._record.snapshot_id}",
            found=found,
            fix="Take a new snapshot and replicate that; nothing was committed at the target",
        )


def _is_spare(key: str) -> bool:
    return f"/{keys.VERSIONS}/" in key


class _Budget:
    """So many bytes at once, first come first served."""

    def __init__(self, size_bytes: int) -> None:
        self._free = size_bytes
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size_bytes: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size_bytes)
            self._free -= size_bytes
        try:
            yield
        finally:
            with self._changed:
                self._free += size_bytes
                self._changed.notify_all()
