"""Reading through a commit record: the manifest, one object, a whole Parquet dataset. Every byte is checked."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.errors import ManifestDamaged, NotInSnapshot, ObjectDamaged, SnapshotNotSelectable
from holdfast.engine.snapshot.manifest import Manifest
from holdfast.engine.snapshot.opened import OpenSnapshot
from holdfast.engine.snapshot.placement import locate
from holdfast.engine.snapshot.records import CommitRecord, iter_selectable, latest


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


def open_selected(store: ObjectStore, dataset: str, *, epoch: int, snapshot_id: str | None = None) -> OpenSnapshot:
    """Open a dataset at this site; ``holdfast.engine.snapshot.open``.

    Args:
        epoch: the newest committed epoch of the group, from the authority.
        snapshot_id: which snapshot; by default the newest that may be selected.

    Raises:
        SnapshotNotSelectable: there is none, or the one named is not in the ancestry of the epoch.
        EpochUnknownHere, CommitRecordDamaged: as `latest`.
        ManifestDamaged: its manifest is missing or wrong.
    """
    return open_snapshot(store, select(store, dataset, epoch=epoch, snapshot_id=snapshot_id))


def select(store: ObjectStore, dataset: str, *, epoch: int, snapshot_id: str | None = None) -> CommitRecord:
    """The record `open_selected` opens. Raises: as that."""
    if snapshot_id is None:
        record = latest(store, dataset, epoch=epoch)
    else:
        line = iter_selectable(store, dataset, epoch=epoch)
        record = next((item for item in line if item.snapshot_id == snapshot_id), None)
    if record is not None:
        return record
    raise SnapshotNotSelectable(
        "there is no such snapshot that may be selected here",
        where=f"{store.name}: {dataset}",
        expected=f"snapshot {snapshot_id or 'of any id'} in the ancestry of epoch {epoch}",
        found="none",
        fix="`holdfast sync snapshots` lists what may be selected at each site; replicate it here if it is elsewhere",
    )


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
