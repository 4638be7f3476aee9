"""Take: list a dataset's folder, hash every object, and prove that what was read existed at one point in time.

Each object is read pinned to one version. After the reads the folder is listed again: when every version that was
read still stands, all of them stood together when that listing began, and that moment is the snapshot's point in
time. What moved in between is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import pyarrow as pa

from holdfast.clock import Clock
from holdfast.engine.objectstore.errors import BytesCorrupted, ObjectNotFound, PreconditionFailed
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import hash_stream
from holdfast.engine.snapshot.errors import DatasetBusy, DatasetEmpty, SnapshotError
from holdfast.engine.snapshot.manifest import Manifest, ManifestEntry
from holdfast.engine.snapshot.placement import Placed, is_replica, leftover, placed_at, same_version
from holdfast.engine.snapshot.read import open_snapshot
from holdfast.engine.snapshot.records import CommitRecord
from holdfast.engine.snapshot.threads import in_threads

#: How often a folder that keeps changing is looked at again.
ROUNDS = 5
#: How often one object is read when its bytes come short or its version moves under the read.
ATTEMPTS = 4


@dataclass(frozen=True)
class TakenSnapshot:
    """A point in time of a dataset that is not published yet."""

    dataset: str
    path: str
    manifest: Manifest
    taken_at: datetime
    hashed_objects: int
    hashed_bytes: int
    #: Where bytes lie when not all of them lie at their own key; empty otherwise.
    placement: tuple[Placed, ...] = field(default=(), repr=False)
    #: The same as a table (`placement.SCHEMA`, sorted by path) instead, where there are many.
    placement_table: pa.Table | None = field(default=None, repr=False, compare=False)

    @property
    def object_count(self) -> int:
        return self.manifest.object_count

    @property
    def size_bytes(self) -> int:
        return self.manifest.size_bytes


def take(
    store: ObjectStore,
    *,
    dataset: str,
    path: str,
    clock: Clock,
    previous: CommitRecord | None = None,
    threads: int = 8,
    allow_empty: bool = False,
) -> TakenSnapshot:
    """Take a snapshot of everything under ``data/<path>/``.

    Args:
        dataset: the name it will be published under.
        path: folder under ``data/``.
        previous: a snapshot in this bucket, usually the latest. Objects whose version still is the one hashed then
            keep their digest unread, where the store's versions identify content. After a failover it must be given:
            it tells what of the folder belongs to the dataset.
        threads: objects read at once; memory is about 4 MiB for each.
        allow_empty: take a folder without objects instead of refusing.

    Raises:
        DatasetEmpty: nothing lies there.
        DatasetBusy: objects kept changing.
    """
    return _Take(store, dataset, path, clock, previous, threads).run(allow_empty)


class _Take:
    def __init__(
        self, store: ObjectStore, dataset: str, path: str, clock: Clock, previous: CommitRecord | None, threads: int
    ) -> None:
        keys.check_name(dataset)
        self._store, self._dataset, self._path, self._clock, self._threads = store, dataset, path, clock, threads
        self._known: dict[str, Placed] = {}
        if previous is not None:
            self._known = dict(open_snapshot(store, previous).placed)
        self._versions_identify = store.capabilities().pinned_reads is True
        #: path → the object as hashed; survives from round to round while its version stands.
        self._hashed: dict[str, Placed] = {}
        self._count = self._bytes = 0

    def run(self, allow_empty: bool) -> TakenSnapshot:
        live, inside = self._list()
        for _ in range(ROUNDS):
            chosen, moved = self._choose(live, inside)
            taken_at = self._clock.now()
            live_after, inside_after = self._list()
            if not moved and _states(live_after) == _states(live):
                return self._finish(chosen, live_after, taken_at, allow_empty)
            live, inside = live_after, inside_after
        raise DatasetBusy(
            "the dataset kept changing while it was read",
            where=f"{self._store.name}: data/{self._path}/",
            expected="one moment at which every object read still stood",
            found=f"changes in {ROUNDS} looks",
            fix="Take it when its writers are quiet, or write new objects instead of overwriting",
        )

    def _list(self) -> tuple[dict[str, ObjectInfo], dict[str, ObjectInfo]]:
        """The objects at their own keys by path, and those under ``.versions/`` by key."""
        folder = keys.data_folder(self._path) + "/"
        live: dict[str, ObjectInfo] = {}
        inside: dict[str, ObjectInfo] = {}
        for info in self._store.list(folder):
            relative = info.key.removeprefix(folder)
            if relative.startswith(keys.VERSIONS + "/"):
                inside[info.key] = info
            elif relative and not (relative.endswith("/") and info.size_bytes == 0):  # folder markers of other tools
                live[relative] = info
        return live, inside

    def _choose(self, live: dict[str, ObjectInfo], inside: dict[str, ObjectInfo]) -> tuple[dict[str, Placed], bool]:
        """The dataset's objects as listed, hashing what is not known; and whether one moved under its read."""
        chosen: dict[str, Placed] = {}
        unknown: list[tuple[str, ObjectInfo]] = []
        for path, info in live.items():
            known = self._hashed.get(path) or self._known.get(path)
            if known is not None and known.key != info.key and known.other_is_still(info):
                if known.key is not None:  # the bytes lie under .versions/, what lies here is older
                    chosen[path] = known
                continue
            if known is not None and known.key == info.key and self._versions_identify and known.is_still(info):
                chosen[path] = known
            else:
                unknown.append((path, info))
        for path, known in self._known.items():
            untouched = known.other_e_tag is None and known.other_version is None
            if path not in live and known.key in inside and untouched:
                chosen[path] = known
        fresh = self._hash(unknown)
        for path, row in fresh.items():
            known = self._known.get(path)
            if row.key is not None:
                chosen[path] = row
            elif known is not None and known.key in inside:
                # At its own key lies some replica's object; the dataset's bytes still are under .versions/.
                chosen[path] = replace(
                    known,
                    other_version=row.other_version,
                    other_e_tag=row.other_e_tag,
                    other_modified_at=row.other_modified_at,
                )
        return chosen, len(fresh) < len(unknown)

    def _hash(self, unknown: Sequence[tuple[str, ObjectInfo]]) -> dict[str, Placed]:
        results = in_threads(lambda item: self._hash_one(*item), unknown, threads=self._threads, name="holdfast-take")
        found = [row for row in results if row is not None]
        self._count += len(found)
        self._bytes += sum(row.size_bytes or 0 for row in found)
        rows = {row.path: row for row in found}
        self._hashed.update(rows)
        return rows

    def _hash_one(self, path: str, info: ObjectInfo) -> Placed | None:
        """Hash one object in exactly its listed state; ``None`` when it is not in that state any more."""
        named = info.version.e_tag is not None or info.version.version is not None
        for _ in range(ATTEMPTS):
            try:
                reader = self._store.open(info.key, if_match=info.version if named else None)
                hasher = hash_stream(reader)
            except (PreconditionFailed, ObjectNotFound):
                return None
            if named and not same_version(reader.info.version, info.version):
                return None  # a store that ignores the pin
            if hasher.size_bytes == info.size_bytes:
                if is_replica(reader.metadata, path) and self._digest_before(path) != hasher.digest:
                    # Came with a replication that is not in `previous`: one cut off, or one of a stale epoch.
                    return leftover(info, path)
                # The listing's own facts, not the read's: their times have another precision on some stores. But a
                # listing of S3 or GCS names no version, and by its version an overwritten object can still be read.
                placed = placed_at(info, path, hasher.digest)
                return replace(placed, version=placed.version or reader.info.version.version)
        raise BytesCorrupted(
            "the object could not be read whole",
            where=f"{self._store.name}: {info.key}",
            expected=f"{info.size_bytes} bytes",
            found=f"{hasher.size_bytes} bytes in {ATTEMPTS} reads",
            fix="Try again; if it stays so, have the store checked",
        )

    def _digest_before(self, path: str) -> str | None:
        known = self._known.get(path)
        return known.digest if known is not None else None

    def _finish(
        self, chosen: dict[str, Placed], live: dict[str, ObjectInfo], taken_at: datetime, allow_empty: bool
    ) -> TakenSnapshot:
        if not chosen and not allow_empty:
            found = (
                f"{len(live)} objects that came with a replication, which `previous` does not have" if live else "none"
            )
            raise DatasetEmpty(
                "the dataset has no objects",
                where=f"{self._store.name}: data/{self._path}/",
                expected="at least one object",
                found=found,
                fix="Correct the dataset's path, or allow an empty snapshot explicitly",
            )
        manifest = Manifest.build(_entry(row) for row in chosen.values())
        leftovers = [leftover(info, path) for path, info in live.items() if path not in chosen]
        displaced = any(row.key != keys.object_key(self._path, row.path) for row in chosen.values())
        placement = (*chosen.values(), *leftovers) if displaced or leftovers else ()
        return TakenSnapshot(
            dataset=self._dataset,
            path=self._path,
            manifest=manifest,
            taken_at=taken_at,
            hashed_objects=self._count,
            hashed_bytes=self._bytes,
            placement=placement,
        )


def _states(live: dict[str, ObjectInfo]) -> dict[str, tuple[object, ...]]:
    return {path: (info.version, info.size_bytes, info.modified_at) for path, info in live.items()}


def _entry(row: Placed) -> ManifestEntry:
    if row.digest is None or row.size_bytes is None or row.modified_at is None:
        raise SnapshotError("a placement has a row without a digest", where=row.path)
    return ManifestEntry(row.path, row.size_bytes, row.digest, row.version, row.e_tag, row.modified_at)
