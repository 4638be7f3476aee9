"""Where a snapshot's bytes lie at one site.

By default every object lies at ``data/<path>/<relative path>``. Nothing published is ever overwritten, so where that
key was taken by other bytes the object lies under ``.versions/``; a placement says where, with the version each
object had when it was hashed here. It also names what lies at an object's own key *without* belonging to the
snapshot, so that a later snapshot at this site tells leftovers from new data. A placement is a hint about one
bucket: every read is checked against the manifest's digest all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.objectstore.interface import OVERWRITE, ObjectInfo, ObjectStore, ObjectVersion
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.manifest import Manifest, read_table, write_table
from holdfast.engine.snapshot.records import CommitRecord

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("digest", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("version", pa.string()),
        pa.field("e_tag", pa.string()),
        pa.field("modified_at", pa.timestamp("us", tz="UTC")),
        pa.field("other_version", pa.string()),
        pa.field("other_e_tag", pa.string()),
        pa.field("other_modified_at", pa.timestamp("us", tz="UTC")),
    ],
    metadata={b"format": b"holdfast.placement/1"},
)


@dataclass(frozen=True, slots=True)
class Placed:
    """One object at this site.

    ``key is None`` is a leftover: something lies at the path's own key that is not in the snapshot. The ``other_*``
    fields are what lies at the path's own key when that is not this object.
    """

    path: str
    key: str | None
    digest: str | None = None
    size_bytes: int | None = None
    version: str | None = None
    e_tag: str | None = None
    modified_at: datetime | None = None
    other_version: str | None = None
    other_e_tag: str | None = None
    other_modified_at: datetime | None = None

    @property
    def object_version(self) -> ObjectVersion | None:
        """What to pin a read to, ``None`` when the store gave nothing to pin to."""
        return None if self.e_tag is None and self.version is None else ObjectVersion(self.e_tag, self.version)

    def is_still(self, info: ObjectInfo) -> bool:
        """Whether a listed object is, by its version, the one that was hashed."""
        return info.size_bytes == self.size_bytes and _same(info, self.version, self.e_tag, self.modified_at)

    def other_is_still(self, info: ObjectInfo) -> bool:
        """Whether what lies at the path's own key is still the thing that is not in the snapshot."""
        return _same(info, self.other_version, self.other_e_tag, self.other_modified_at)


def same_version(left: ObjectVersion, right: ObjectVersion) -> bool:
    """Whether both name one state of an object. A listing may lack the version: ETags decide where both have one."""
    if left.e_tag is not None and right.e_tag is not None:
        return left.e_tag == right.e_tag
    return left.version is not None and left.version == right.version


def _same(info: ObjectInfo, version: str | None, e_tag: str | None, modified_at: datetime | None) -> bool:
    return info.modified_at == modified_at and same_version(info.version, ObjectVersion(e_tag, version))


def placed_at(info: ObjectInfo, path: str, digest: str, other: ObjectInfo | None = None) -> Placed:
    """An object as it lies at a key, with what lies at its own key instead."""
    return Placed(
        path=path,
        key=info.key,
        digest=digest,
        size_bytes=info.size_bytes,
        version=info.version.version,
        e_tag=info.version.e_tag,
        modified_at=info.modified_at,
        other_version=other.version.version if other else None,
        other_e_tag=other.version.e_tag if other else None,
        other_modified_at=other.modified_at if other else None,
    )


def leftover(info: ObjectInfo, path: str) -> Placed:
    """Something at a path's own key that is not in the snapshot."""
    return Placed(
        path=path,
        key=None,
        other_version=info.version.version,
        other_e_tag=info.version.e_tag,
        other_modified_at=info.modified_at,
    )


def replica_metadata(snapshot_id: str, path: str) -> dict[str, str]:
    """What a replica's object at its own key carries, so that it is not taken for new data."""
    return {"holdfast_snapshot": snapshot_id, "holdfast_path": digest_of(path.encode()).partition(":")[2][:32]}


def is_replica(metadata: Mapping[str, str], path: str) -> bool:
    """Whether an object came here with a snapshot, and was not moved by some tool since."""
    return metadata.get("holdfast_path") == replica_metadata("", path)["holdfast_path"]


def write_placement(store: ObjectStore, record: CommitRecord, site: str, rows: list[Placed]) -> None:
    """Write where a snapshot's bytes lie here; before its commit record."""
    ordered = sorted(rows, key=lambda row: row.path)
    table = pa.table({name: [getattr(row, name) for row in ordered] for name in SCHEMA.names}, schema=SCHEMA)
    write_placement_table(store, record, site, table)


def write_placement_table(store: ObjectStore, record: CommitRecord, site: str, table: pa.Table) -> None:
    """As `write_placement`, from a table of schema `SCHEMA` sorted by path."""
    # Overwriting is right: a second attempt at the same replica knows better, and after the commit nobody writes it.
    data = write_table(table.select(SCHEMA.names).cast(SCHEMA))
    store.put(keys.placement_key(record.dataset, record.snapshot_id, site), data, mode=OVERWRITE)


def locate(store: ObjectStore, record: CommitRecord, manifest: Manifest) -> dict[str, Placed]:
    """Where each object of a snapshot lies here, and the leftovers, by path."""
    return {row["path"]: Placed(**row) for row in locate_table(store, record, manifest).to_pylist()}


def locate_table(store: ObjectStore, record: CommitRecord, manifest: Manifest) -> pa.Table:
    """As `locate`, as a table of schema `SCHEMA` sorted by path."""
    for info in store.list(keys.placement_prefix(record.dataset, record.snapshot_id)):
        return read_table(store.get(info.key), SCHEMA, f"{store.name}: {info.key}")
    table = manifest.table
    own = pc.binary_join_element_wise(keys.data_folder(record.path), table["path"], "/")
    columns = [own if name == "key" else _column(table, name) for name in SCHEMA.names]
    return pa.table(columns, names=SCHEMA.names).cast(SCHEMA)


def _column(table: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    return table[name] if name in table.schema.names else pa.nulls(table.num_rows, SCHEMA.field(name).type)
