"""Reading through a commit record: the manifest, one object, a whole Parquet dataset. Every byte is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.errors import ManifestDamaged, NotInSnapshot, ObjectDamaged, ObjectOverwritten
from holdfast.engine.snapshot.manifest import Manifest, ManifestEntry
from holdfast.engine.snapshot.placement import Placed, locate
from holdfast.engine.snapshot.records import CommitRecord


@dataclass(frozen=True)
class OpenSnapshot:
    """A snapshot's manifest and where its bytes lie here: read once, then as many objects as wanted."""

    store: ObjectStore
    record: CommitRecord
    manifest: Manifest
    placed: Mapping[str, Placed]

    def read(self, path: str) -> bytes:
        """One object's bytes, whole and checked.

        Raises:
            NotInSnapshot: the snapshot has no such path.
            ObjectOverwritten: somebody overwrote or removed it since the snapshot.
            ObjectDamaged: its bytes are wrong though its version is the same.
        """
        entry = self.manifest.entry(path)
        place = self.placed.get(path)
        key = place.key if place is not None and place.key is not None else keys.object_key(self.record.path, path)
        try:
            data = self.store.get(key)
        except ObjectNotFound:
            raise self._overwritten(entry, key, "nothing") from None
        found = digest_of(data)
        if found == entry.digest:
            return data
        if place is not None and place.object_version is not None:
            now = self.store.head(key)
            if now.version != place.object_version:
                raise self._overwritten(entry, key, found)
        raise ObjectDamaged(
            "the object's bytes are not the snapshot's",
            where=f"{self.store.name}: {key}",
            expected=entry.digest,
            found=found,
            fix="Read it at another site that has this snapshot, and have this store checked",
        )

    def _overwritten(self, entry: ManifestEntry, key: str, found: str) -> ObjectOverwritten:
        return ObjectOverwritten(
            "the object was overwritten or removed after the snapshot was taken",
            where=f"{self.store.name}: {key}",
            expected=entry.digest,
            found=found,
            fix="Use a newer snapshot, or read this one at a site that has a replica of it",
        )


def load_manifest(store: ObjectStore, record: CommitRecord) -> Manifest:
    """A snapshot's manifest, checked against the record. Raises ManifestDamaged."""
    key = keys.manifest_key(record.dataset, record.snapshot_id)
    where = f"{store.name}: {key}"
    try:
        data = store.get(key)
    except ObjectNotFound:
        raise ManifestDamaged(
            "a committed snapshot has no manifest",
            where=where,
            expected=record.manifest_digest,
            found="nothing",
            fix="Copy it from another site; its bytes are equal everywhere",
        ) from None
    return Manifest.from_bytes(data, digest=record.manifest_digest, where=where)


def open_snapshot(store: ObjectStore, record: CommitRecord) -> OpenSnapshot:
    """Open a snapshot for reading. Raises ManifestDamaged."""
    manifest = load_manifest(store, record)
    return OpenSnapshot(store, record, manifest, locate(store, record, manifest))


def read_object(store: ObjectStore, record: CommitRecord, path: str) -> bytes:
    """One object of a snapshot, checked. For many objects use `open_snapshot` once.

    Raises: as `OpenSnapshot.read` and `load_manifest`.
    """
    return open_snapshot(store, record).read(path)


def open_table(store: ObjectStore, record: CommitRecord) -> pa.Table:
    """All Parquet objects of a snapshot as one table, in path order.

    Raises:
        NotInSnapshot: it has no Parquet object.
        ObjectDamaged: an object's bytes are wrong, or no Parquet.
    """
    opened = open_snapshot(store, record)
    parts = []
    for path in opened.manifest.paths:
        if not path.endswith(".parquet"):
            continue
        data = opened.read(path)
        try:
            parts.append(pq.read_table(pa.BufferReader(data)))
        except (pa.ArrowException, OSError) as error:
            raise ObjectDamaged(
                "the object is no Parquet",
                where=f"{store.name}: {path}",
                expected="Parquet",
                found=str(error).splitlines()[0],
                fix="Correct the dataset at its origin",
            ) from None
    if not parts:
        raise NotInSnapshot(
            "the snapshot has no Parquet object",
            where=f"{store.name}: {record.dataset} {record.snapshot_id}",
            expected="paths that end in .parquet",
            found=f"{opened.manifest.object_count} others",
        )
    return pa.concat_tables(parts, promote_options="default")
