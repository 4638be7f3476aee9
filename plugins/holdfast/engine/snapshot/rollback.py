"""Rollback: publish an earlier snapshot's content anew, on top of the line. History is never rewritten.

The new snapshot has the earlier one's manifest, byte for byte. Its bytes are found where they lie at this site, or
brought back from the other sites; what cannot be found anywhere is listed and nothing is published.

Live objects stay as they are: who reads through snapshots sees the earlier content at once, who reads the folder does
not. The placement notes what lies at each own key (``other_*``, and leftovers), so that the next `take` does not take
the newer bytes for new data and undo the rollback; what a writer writes *after* it is new data. `restore_live` makes
the folder follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

from holdfast.clock import Clock
from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound, ObjectStoreError, PreconditionFailed
from holdfast.engine.objectstore.interface import CREATE, OVERWRITE, IfMatch, ObjectInfo, ObjectStore, ObjectVersion
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import digest_of, hash_stream
from holdfast.engine.snapshot.errors import ObjectDamaged, SnapshotError
from holdfast.engine.snapshot.lineage import require_fork
from holdfast.engine.snapshot.manifest import ManifestEntry
from holdfast.engine.snapshot.opened import OpenSnapshot
from holdfast.engine.snapshot.placement import Placed, leftover, placed_at, same_version, write_placement
from holdfast.engine.snapshot.publish import commit_next, put_manifest
from holdfast.engine.snapshot.read import open_snapshot, select
from holdfast.engine.snapshot.records import CommitRecord, commit_time, latest, record_keys
from holdfast.engine.snapshot.removals import check_before_commit
from holdfast.engine.snapshot.succession import Turn, await_turn
from holdfast.engine.snapshot.threads import in_threads

ROLLED_BACK_TO = "rolled_back_to"
ROLLED_BACK_FROM = "rolled_back_from"
REASON = "rollback_reason"
#: Up to here an object is moved whole; above it is streamed.
WHOLE_BYTES = 8 * 1024 * 1024


class BytesGone(SnapshotError):
    """Bytes of the snapshot are at no site any more. Nothing was published."""

    def __init__(self, missing: tuple[str, ...], where: str, sites: str) -> None:
        self.missing = missing
        first = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        super().__init__(
            "bytes of the snapshot are gone",
            where=where,
            expected=f"{len(missing)} objects at {sites}",
            found=f"neither at their keys nor under {keys.VERSIONS}/: {first}",
            fix="Choose a snapshot whose bytes are whole, or name a site that has a replica of this one",
        )


@dataclass(frozen=True)
class RestoreReport:
    """What `restore_live` did to the dataset's folder. Paths."""

    restored: tuple[str, ...]
    already_right: int
    #: Written since the rollback by somebody else: left alone, new data for the next snapshot.
    written_since: tuple[str, ...]
    #: In the folder and not in the snapshot. Left alone: no cloud removes an object only if it is still the same.
    extra: tuple[str, ...]


def rollback(
    stores: Mapping[str, ObjectStore],
    dataset: str,
    *,
    to: str,
    epoch: int,
    site: str,
    clock: Clock,
    reason: str,
    restore_live: bool = False,
    threads: int = 8,
) -> CommitRecord:
    """Publish the content of an earlier snapshot at a site, as its newest snapshot.

    Calling it again after a crash goes on. After success it returns the snapshot that was made, as long as nothing in
    the folder changed since; then it is another rollback, of the folder as it is now.

    Args:
        stores: by site; ``site`` must be among them, the others are asked for bytes this site has no more.
        to: id of a snapshot that may be selected at the site.
        epoch: the newest committed epoch, in which ``site`` is active.
        site: where it is published. The others get it by the next sync.
        reason: for the new snapshot's labels.
        restore_live: then also rewrite the objects at their own keys, see `restore_live`.
        threads: objects looked at once.

    Raises:
        SnapshotNotSelectable: ``to`` may not be selected at this site.
        BytesGone: some of its bytes are at none of the sites; all of them are listed, nothing was published.
        BytesBeingRemoved: a delete run removes some of them; run it again.
        Superseded: somebody else published meanwhile; look again what the newest snapshot is. Nothing was published.
        LineSplit: somebody else published on top of the same snapshot, and neither knew of the other.
    """
    store = stores[site]
    target = select(store, dataset, epoch=epoch, snapshot_id=to)
    current = latest(store, dataset, epoch=epoch)
    if current is not None and current.labels.get(ROLLED_BACK_TO) == to and _unchanged(store, current):
        record = current  # an earlier call got this far
    else:
        others = {name: other for name, other in stores.items() if name != site}
        record = _Rollback(store, others, target, current or target, site, epoch, clock, threads).run(reason)
    if restore_live:
        restore(store, record, threads=threads)
    return record


class _Rollback:
    def __init__(
        self,
        store: ObjectStore,
        others: Mapping[str, ObjectStore],
        target: CommitRecord,
        current: CommitRecord,
        site: str,
        epoch: int,
        clock: Clock,
        threads: int,
    ) -> None:
        self._store, self._target, self._current = store, target, current
        self._site, self._epoch, self._clock, self._threads = site, epoch, clock, threads
        self._others = others
        self._opened = open_snapshot(store, target)
        self._elsewhere: list[OpenSnapshot] | None = None
        self._folder = keys.data_folder(target.path) + "/"

    def run(self, reason: str) -> CommitRecord:
        require_fork(self._store, keys.root(self._target.dataset), self._epoch)
        # What is noted as older than the rollback is noted before anything else: what is written meanwhile is new.
        listed = {info.key: info for info in self._store.list(self._folder)}
        where = self._find_all(listed)
        now = {info.key: info for info in self._store.list(self._folder)}
        rows = self._rows(where, listed, now)
        dataset, parent = self._target.dataset, self._current.snapshot_id
        write_id, epoch = uuid4().hex, self._epoch
        turn = await_turn(self._store, dataset, epoch=epoch, parent=parent, write_id=write_id, clock=self._clock)
        record = self._seal(reason, write_id, turn)
        put_manifest(self._store, record, self._opened.manifest.data)
        write_placement(self._store, record, self._site, rows)
        check_before_commit(self._store, record, where.values())
        return commit_next(self._store, turn, record)

    def _seal(self, reason: str, write_id: str, turn: Turn) -> CommitRecord:
        target, moment = self._target, self._clock.now()
        found = record_keys(self._store, target.dataset)
        parent = next(key for key in found if key.snapshot_id == self._current.snapshot_id)
        inherited = {
            name: value
            for name, value in target.labels.items()
            if name not in (ROLLED_BACK_TO, ROLLED_BACK_FROM, REASON)
        }
        return CommitRecord.seal(
            dataset=target.dataset,
            epoch=self._epoch,
            parent=self._current.snapshot_id,
            write_id=write_id,
            manifest_digest=target.manifest_digest,
            object_count=target.object_count,
            size_bytes=target.size_bytes,
            taken_at=moment,
            committed_at=turn.not_before(commit_time(moment, parent)),
            site=self._site,
            path=target.path,
            labels={
                **inherited,
                ROLLED_BACK_TO: target.snapshot_id,
                ROLLED_BACK_FROM: self._current.snapshot_id,
                REASON: reason,
            },
        )

    def _find_all(self, listed: Mapping[str, ObjectInfo]) -> dict[str, str]:
        """Path → key at which its bytes lie at this site. Raises BytesGone."""
        found: dict[str, str] = {}
        missing: list[str] = []
        entries = self._opened.manifest.entries()
        work = in_threads(
            lambda entry: (entry.path, self._find(entry, listed)),
            entries,
            threads=self._threads,
            name="holdfast-rollback",
        )
        for path, key in work:
            if key is None:
                missing.append(path)
            else:
                found[path] = key
        if missing:
            raise BytesGone(
                tuple(sorted(missing)),
                f"{self._target.dataset} {self._target.snapshot_id}",
                ", ".join([self._site, *self._others]),
            )
        return found

    def _find(self, entry: ManifestEntry, listed: Mapping[str, ObjectInfo]) -> str | None:
        """The key of an object's bytes at this site, brought there if need be; ``None``: they are nowhere."""
        place = self._opened.placed.get(entry.path)
        if place is not None and place.key is not None and self._still(place, listed):
            return place.key
        own = keys.object_key(self._target.path, entry.path)
        spare = keys.version_key(self._target.path, entry.path, entry.digest)
        for key in dict.fromkeys((place.key if place is not None else own, own, spare)):
            info = listed.get(key) if key is not None else None
            if info is not None and info.size_bytes == entry.size_bytes and self._holds(info.key, entry):
                return info.key
        for opened in (self._opened, *self._replicas()):
            if self._bring(opened, entry, spare):
                return spare
        return None

    def _still(self, place: Placed, listed: Mapping[str, ObjectInfo]) -> bool:
        """Whether the bytes that were hashed for the snapshot are there by their version, unread."""
        info = listed.get(place.key or "")
        return info is not None and self._store.capabilities().pinned_reads is True and place.is_still(info)

    def _holds(self, key: str, entry: ManifestEntry) -> bool:
        try:
            return hash_stream(self._store.open(key)).digest == entry.digest
        except ObjectNotFound:
            return False

    def _bring(self, source: OpenSnapshot, entry: ManifestEntry, spare: str) -> bool:
        """Write an object's bytes under ``.versions/`` from where a snapshot has them, and read them back."""
        try:
            if entry.size_bytes <= WHOLE_BYTES:
                self._store.put(spare, source.read(entry.path), mode=OVERWRITE)
            else:
                source.check(entry.path)
                ranges = range(0, entry.size_bytes, WHOLE_BYTES)
                chunks = (source.read_range(entry.path, start, start + WHOLE_BYTES) for start in ranges)
                self._store.put(spare, chunks, mode=OVERWRITE)
        except ObjectDamaged:
            return False
        if not self._holds(spare, entry):
            raise ObjectDamaged(
                "bytes written for the rollback read back as other bytes",
                where=f"{self._store.name}: {spare}",
                expected=entry.digest,
                found="something else",
                fix="Have this store and the way to it checked; nothing was published",
            )
        return True

    def _replicas(self) -> list[OpenSnapshot]:
        if self._elsewhere is None:
            found = []
            for other in self._others.values():
                try:
                    found.append(
                        open_snapshot(
                            other,
                            select(
                                other, self._target.dataset, epoch=self._epoch, snapshot_id=self._target.snapshot_id
                            ),
                        )
                    )
                except (SnapshotError, ObjectStoreError):
                    continue  # a site that does not have it, or does not answer, has nothing to give
            self._elsewhere = found
        return self._elsewhere

    def _rows(
        self, where: Mapping[str, str], listed: Mapping[str, ObjectInfo], now: Mapping[str, ObjectInfo]
    ) -> list[Placed]:
        rows = []
        for entry in self._opened.manifest.entries():
            key, own = where[entry.path], keys.object_key(self._target.path, entry.path)
            info = now.get(key)
            if info is None:
                info = self._store.head(key)
            rows.append(placed_at(info, entry.path, entry.digest, listed.get(own) if key != own else None))
        for key, info in listed.items():
            path = key.removeprefix(self._folder)
            if path not in where and not path.startswith(keys.VERSIONS + "/"):
                rows.append(leftover(info, path))
        return rows


def _unchanged(store: ObjectStore, record: CommitRecord) -> bool:
    """Whether a snapshot's objects, and what lay beside them, are as its placement noted them."""
    opened = open_snapshot(store, record)
    folder = keys.data_folder(record.path) + "/"
    listed = {info.key: info for info in store.list(folder)}
    for row in opened.placed.values():
        own = listed.pop(folder + row.path, None)
        if row.key is not None and row.key != folder + row.path and not _is_there(row, listed.get(row.key)):
            return False
        lay_there = row.e_tag if row.key == folder + row.path else row.other_e_tag
        if own is None and lay_there is not None:
            return False
        if own is not None and not (row.is_still(own) if row.key == own.key else row.other_is_still(own)):
            return False
    return not [key for key in listed if not key.startswith(f"{folder}{keys.VERSIONS}/")]


def _is_there(row: Placed, info: ObjectInfo | None) -> bool:
    return info is not None and row.is_still(info)


def restore(store: ObjectStore, record: CommitRecord, *, threads: int = 8) -> RestoreReport:
    """Make the objects at their own keys those of a snapshot. Never blind.

    An object is written only where nothing is (create-only) or over exactly what lay there when the snapshot was
    published (if-match); what somebody wrote since stays and is new data. What is taken out of the way is kept under
    ``.versions/``, where older snapshots' readers find it. Objects that are not in the snapshot stay. Run again, it
    goes on.

    Raises:
        NotSupported: an object must be replaced, and the store has no compare-and-swap.
        ObjectDamaged: the snapshot's own bytes are not right here.
    """
    opened = open_snapshot(store, record)
    folder = keys.data_folder(record.path) + "/"
    listed = {info.key.removeprefix(folder): info for info in store.list(folder)}
    entries = opened.manifest.entries()
    done = dict(
        in_threads(
            lambda entry: (entry.path, _restore_one(opened, entry, listed.get(entry.path))),
            entries,
            threads=threads,
            name="holdfast-restore",
        )
    )
    states = {path: state for path, (state, _) in done.items()}
    _note(opened, {path: version for path, (state, version) in done.items() if state == "restored"})
    members = set(opened.manifest.paths)
    return RestoreReport(
        restored=tuple(sorted(path for path, state in states.items() if state == "restored")),
        already_right=sum(1 for state in states.values() if state == "right"),
        written_since=tuple(sorted(path for path, state in states.items() if state == "written")),
        extra=tuple(sorted(p for p in listed if p not in members and not p.startswith(keys.VERSIONS + "/"))),
    )


def _restore_one(
    opened: OpenSnapshot, entry: ManifestEntry, info: ObjectInfo | None
) -> tuple[Literal["restored", "right", "written"], ObjectVersion]:
    """What became of one object at its own key, and the version that was written there."""
    store, own = opened.store, keys.object_key(opened.record.path, entry.path)
    place = opened.placed[entry.path]
    nothing = ObjectVersion(None)
    if place.key == own and info is not None and place.is_still(info):
        return "right", nothing
    nothing_lay_there = place.key != own and place.other_e_tag is None and place.other_version is None
    # A conditional put goes whole: no cloud's streamed put has a condition through this interface.
    try:
        if info is None and nothing_lay_there:
            return "restored", store.put(own, opened.read(entry.path), mode=CREATE)
        if info is not None and place.key != own and place.other_is_still(info):
            _keep(store, opened.record.path, entry.path, info)
            return "restored", store.put(own, opened.read(entry.path), mode=IfMatch(info.version))
    except (ObjectExists, PreconditionFailed, ObjectNotFound):
        pass  # somebody writes right now
    return ("right" if _digest(store, own) == entry.digest else "written"), nothing


def _note(opened: OpenSnapshot, restored: Mapping[str, ObjectVersion]) -> None:
    """Let the placement name the own keys of what was restored, so that the next `take` knows their objects: one that
    is removed there is then removed from the dataset."""
    if not restored:
        return
    store, record = opened.store, opened.record
    folder = keys.data_folder(record.path) + "/"
    listed = {info.key: info for info in store.list(folder)}
    rows = dict(opened.placed)
    for path, version in restored.items():
        info, digest = listed.get(folder + path), rows[path].digest
        if info is not None and digest is not None and same_version(info.version, version):
            rows[path] = placed_at(info, path, digest)
    prefix = keys.placement_prefix(record.dataset, record.snapshot_id)
    for info in store.list(prefix):
        site = info.key.removeprefix(prefix).removesuffix(".parquet")
        write_placement(store, record, site, list(rows.values()))
        return


def _keep(store: ObjectStore, path: str, relative: str, info: ObjectInfo) -> None:
    """Bytes at an own key, kept under ``.versions/`` before they are overwritten. Raises PreconditionFailed."""
    data = store.get(info.key, if_match=info.version)
    spare = keys.version_key(path, relative, digest_of(data))
    try:
        store.put(spare, data, mode=CREATE)
    except ObjectExists:
        if _digest(store, spare) != digest_of(data):
            store.put(spare, data, mode=OVERWRITE)


def _digest(store: ObjectStore, key: str) -> str | None:
    try:
        return hash_stream(store.open(key)).digest
    except ObjectNotFound:
        return None
