"""Verify: read every byte of a snapshot back and hash it."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import hash_stream
from holdfast.engine.snapshot.manifest import ManifestEntry
from holdfast.engine.snapshot.opened import OpenSnapshot
from holdfast.engine.snapshot.read import open_snapshot
from holdfast.engine.snapshot.records import CommitRecord
from holdfast.engine.snapshot.threads import in_threads


@dataclass(frozen=True)
class VerifyReport:
    """What a read of every byte found. ``extra`` lies in the folder without belonging to the snapshot: no fault."""

    snapshot_id: str
    checked_objects: int
    checked_bytes: int
    missing: tuple[str, ...]
    corrupt: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.missing and not self.corrupt


def verify(store: ObjectStore, record: CommitRecord, *, threads: int = 8) -> VerifyReport:
    """Read and hash every object of a snapshot at this site.

    Raises:
        ManifestDamaged: the manifest itself is missing or wrong.
        StoreUnavailable: the store did not answer; nothing was found out.
    """
    opened = open_snapshot(store, record)
    folder = keys.data_folder(record.path) + "/"
    listed = {info.key.removeprefix(folder) for info in store.list(folder)}
    named = set(opened.manifest.paths)
    extra = sorted(path for path in listed - named if not path.startswith(keys.VERSIONS + "/"))
    checks = in_threads(
        lambda entry: _check(opened, entry), opened.manifest.entries(), threads=threads, name="holdfast-verify"
    )
    results = sorted(checks)
    return VerifyReport(
        snapshot_id=record.snapshot_id,
        checked_objects=sum(1 for _, state, _ in results if state != "missing"),
        checked_bytes=sum(size for _, _, size in results),
        missing=tuple(path for path, state, _ in results if state == "missing"),
        corrupt=tuple(path for path, state, _ in results if state == "corrupt"),
        extra=tuple(extra),
    )


def _check(opened: OpenSnapshot, entry: ManifestEntry) -> tuple[str, str, int]:
    place = opened.placed.get(entry.path)
    key = place.key if place is not None and place.key else keys.object_key(opened.record.path, entry.path)
    try:
        hasher = hash_stream(opened.store.open(key))
    except ObjectNotFound:
        return entry.path, "missing", 0
    return entry.path, "good" if hasher.digest == entry.digest else "corrupt", hasher.size_bytes
