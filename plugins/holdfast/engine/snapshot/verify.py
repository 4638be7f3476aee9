"""Verify: read every byte of a snapshot back and hash it."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import hash_stream
from holdfast.engine.snapshot.errors import ObjectDamaged
from holdfast.engine.snapshot.manifest import ManifestEntry
from holdfast.engine.snapshot.opened import OpenSnapshot
from holdfast.engine.snapshot.placement import same_version
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
    state, size_bytes, rotted = "missing", 0, False
    try:
        reader = opened.store.open(key)
        hasher = hash_stream(reader)
    except ObjectNotFound:
        pass
    else:
        if hasher.digest == entry.digest:
            return entry.path, "good", hasher.size_bytes
        state, size_bytes = "corrupt", hasher.size_bytes
        pin = place.object_version if place is not None else None
        rotted = pin is not None and same_version(reader.info.version, pin)
    if not rotted and _lies_elsewhere(opened, entry):
        return entry.path, "good", entry.size_bytes
    return entry.path, state, size_bytes


def _lies_elsewhere(opened: OpenSnapshot, entry: ManifestEntry) -> bool:
    """Whether an object that was overwritten still can be read here: by its version, or under ``.versions/``."""
    try:
        opened.check(entry.path)
    except ObjectDamaged:
        return False
    return True
