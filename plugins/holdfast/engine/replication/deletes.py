"""Deletes at a replica: off by default, late, limited, undoable, and never of bytes a snapshot still needs.

*Mark* writes a tombstone for objects in the replica's folder that the newest snapshot does not need. *Remove* takes
away those whose delay is over and that no snapshot here names. By default every snapshot is kept, so only an explicit
`keep` frees bytes of older ones: it expires them first.

Two runs at once, a run that died, and a replication that publishes meanwhile are safe: see `snapshot/removals.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from holdfast.clock import Clock
from holdfast.engine.config.sync import Deletes
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ByteRange, ObjectInfo, ObjectStore
from holdfast.engine.objectstore.keys import is_plain
from holdfast.engine.replication.errors import ReplicationError
from holdfast.engine.replication.tombstones import (
    Expired,
    Finished,
    Gone,
    Graveyard,
    Spared,
    Tombstone,
    Why,
    finish,
    read_graveyard,
    write,
)
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.snapshot.lineage import read_forks
from holdfast.engine.snapshot.placement import is_replica
from holdfast.engine.snapshot.read import open_snapshot
from holdfast.engine.snapshot.records import CommitRecord, iter_selectable, latest, record_keys
from holdfast.engine.snapshot.removals import Removal, expired_ids, named_keys, removals
from holdfast.errors import Refused

#: Objects of one tombstone at most; more make several.
OBJECTS_EACH = 10_000
#: Objects between two looks at whether removing still is allowed.
CHUNK = 100
#: A run removes nothing later than half of this after it wrote its intent; an intent older than all of it is of a run
#: that died. Between the two is room for clocks that disagree.
LEASE_SECONDS = 3600.0


class DeletesRefused(Refused, ReplicationError):
    """Nothing may be marked or removed now. Nothing was changed."""


class DeletesNeedApproval(Refused, ReplicationError):
    """More would be marked for removal than the policy lets pass without a person. Nothing was changed."""

    def __init__(self, approval_id: str, count: int, total: int, policy: Deletes, where: str, first: str) -> None:
        self.approval_id, self.object_count, self.total_objects = approval_id, count, total
        super().__init__(
            "so many objects left the source that a person must confirm it",
            where=where,
            expected=f"at most {policy.most_objects} objects and {policy.most_share:.0%} of the dataset in one run",
            found=f"{count} of {total} ({count / max(total, 1):.0%}), first {first}",
            fix=f"If that is right: `holdfast sync run … --approve-deletes {approval_id}` (it approves exactly these "
            "objects); if not, roll the dataset back at its source",
        )


@dataclass(frozen=True)
class SourceState:
    """What is known of the source when deletes are asked for. ``None`` is not known, and not knowing is no."""

    site: str
    healthy: bool | None
    #: Whether the listing the newest snapshot was taken from looks whole (the plan says so).
    listing_complete: bool | None


@dataclass(frozen=True)
class Keep:
    """Which snapshots a site keeps, of those that may be selected: both rules apply, the newest always stays."""

    newest: int = 1
    younger_than_seconds: float | None = None

    def expired(self, line: Sequence[CommitRecord], now: datetime, pinned: Collection[str]) -> list[CommitRecord]:
        """Of a line, newest first, the old end that is not kept."""
        kept = max(self.newest, 1)
        if self.younger_than_seconds is not None:
            oldest = now - timedelta(seconds=self.younger_than_seconds)
            kept = max([kept, *(i + 1 for i, record in enumerate(line) if record.committed_at >= oldest)])
        return [record for record in line[kept:] if record.snapshot_id not in pinned]


@dataclass(frozen=True)
class RemoveReport:
    """What a removal did."""

    removed_objects: int = 0
    removed_bytes: int = 0
    expired_snapshots: tuple[str, ...] = ()
    #: Marked, and kept because a snapshot here names them.
    still_needed_objects: int = 0
    #: Marked, and their delay is not over.
    waiting_objects: int = 0


@dataclass(frozen=True)
class UndoReport:
    """What an undo kept. Paths."""

    kept: tuple[str, ...]
    #: Removed already, or in the hands of a run that is removing them.
    too_late: tuple[str, ...]


def mark(
    store: ObjectStore,
    dataset: str,
    *,
    site: str,
    epoch: int,
    policy: Deletes,
    source: SourceState,
    clock: Clock,
    approve: str | None = None,
    live: bool = False,
) -> list[Tombstone]:
    """Write tombstones for what the newest snapshot at a replica does not need and is not marked yet.

    Objects at their own keys that came with no replication are never marked: somebody put them there.

    Args:
        site: the replica's site.
        epoch: the newest committed epoch.
        approve: the ``approval_id`` of a `DeletesNeedApproval`, from a person who looked.
        live: writers use this site's folder; only what lies under ``.versions/`` is looked at.

    Returns:
        The new tombstones; none when the policy has deletes off.

    Raises:
        DeletesRefused: the source is not known to be healthy, or its listing not known to be whole.
        DeletesNeedApproval: it is more than the limits allow.
    """
    if not policy.enabled:
        return []
    _require(source, f"{store.name}: {dataset}")
    newest = latest(store, dataset, epoch=epoch)
    if newest is None:
        return []
    found = _unneeded(store, newest, read_graveyard(store, dataset), live=live)
    if not found:
        return []
    approval_id = _check_limits(found, newest, policy, approve, f"{store.name}: {dataset}", site)
    moment = clock.now()
    made = []
    for start in range(0, len(found), OBJECTS_EACH):
        tombstone = Tombstone.seal(
            dataset=dataset,
            site=site,
            path=newest.path,
            snapshot_id=newest.snapshot_id,
            snapshot_committed_at=newest.committed_at,
            marked_at=moment,
            remove_after=moment + timedelta(seconds=policy.delay_seconds),
            approved=approval_id,
            objects=found[start : start + OBJECTS_EACH],
        )
        write(store, tombstone.key, tombstone)
        made.append(tombstone)
    return made


def remove(
    store: ObjectStore,
    dataset: str,
    *,
    site: str,
    epoch: int,
    policy: Deletes,
    source: SourceState,
    clock: Clock,
    keep: Keep | None = None,
    live: bool = False,
    guard: Callable[[], None] = lambda: None,
) -> RemoveReport:
    """Remove what is marked, whose delay is over, and that no snapshot here names.

    Run again after a crash it goes on; two at once remove nothing that one alone would not. The object is looked at
    right before it is removed, but no cloud removes "only if it is still this version": a writer that overwrites a
    replica's own object within that one round trip loses its write. `guard` and `live` are there so that a site with
    writers is not cleaned at its own keys.

    Args:
        keep: which snapshots stay; the others are *expired*: their records are removed here, then their bytes. By
            default all of them stay.
        live: as in `mark`.
        guard: called before each hundred removals; raises when removing must stop (the site was promoted).

    Raises:
        DeletesRefused: as `mark`.
        TombstoneDamaged: a tombstone is not what was written.
        StoreUnavailable: the store did not answer; run it again.
    """
    if not policy.enabled:
        return RemoveReport()
    _require(source, f"{store.name}: {dataset}")
    run = _Removal(store, dataset, site, clock, guard)
    return run.run(list(iter_selectable(store, dataset, epoch=epoch)), keep, live=live)


def undo(
    store: ObjectStore,
    dataset: str,
    tombstone_id: str,
    *,
    clock: Clock,
    reason: str,
    paths: Collection[str] | None = None,
) -> UndoReport:
    """Keep marked objects after all. They are not marked again.

    This keeps the bytes; to have an object in the dataset again, roll back to a snapshot that has it.

    Args:
        paths: which of the tombstone's; by default all.

    Raises:
        DeletesRefused: there is no such tombstone, or it is finished.
    """
    found = next((p for p in read_graveyard(store, dataset).pending if p.tombstone.id == tombstone_id), None)
    if found is None:
        raise DeletesRefused(
            "there is no such tombstone that is still open",
            where=f"{store.name}: {dataset}",
            expected="the id of a tombstone",
            found=tombstone_id,
            fix="`holdfast sync status` lists the open ones",
        )
    tombstone = found.tombstone
    chosen = [item for item in tombstone.objects if paths is None or item.path in paths]
    spared = Spared.seal(
        dataset=dataset,
        tombstone=tombstone_id,
        why="undone",
        keys=tuple(item.key for item in chosen),
        reason=reason,
        at=clock.now(),
    )
    write(store, spared.key, spared)
    # A run reads what was spared after it wrote its intent; so a key without an intent now is safe.
    doomed = {key for removal in removals(store, dataset) for key in removal.keys}
    listed = {info.key: info for info in store.list(keys.data_folder(tombstone.path) + "/")}
    late = {item.path for item in chosen if item.key in doomed or not item.is_still(listed.get(item.key))}
    return UndoReport(tuple(sorted({i.path for i in chosen} - late)), tuple(sorted(late)))


class _Removal:
    def __init__(self, store: ObjectStore, dataset: str, site: str, clock: Clock, guard: Callable[[], None]) -> None:
        self._store, self._dataset, self._site, self._clock, self._guard = store, dataset, site, clock, guard

    def run(self, line: Sequence[CommitRecord], keep: Keep | None, *, live: bool) -> RemoveReport:
        self._spare_named_again()
        expired = self._expire(line, keep)
        self._drop_old_intents()
        graveyard = read_graveyard(self._store, self._dataset)
        folders = {pending.tombstone.path for pending in graveyard.pending}
        listed = self._list(folders)
        due, waiting = self._due(graveyard, listed, live=live)
        needed = self._needed(due)
        doomed = {key: item for key, item in due.items() if key not in needed}
        removed = self._remove(doomed, folders) if doomed else {}
        self._finish(graveyard, {key: info for key, info in listed.items() if key not in removed})
        return RemoveReport(
            removed_objects=len(removed),
            removed_bytes=sum(item.size_bytes for item in removed.values()),
            expired_snapshots=tuple(record.snapshot_id for record in expired),
            still_needed_objects=len(due) - len(removed),
            waiting_objects=waiting,
        )

    def _list(self, folders: Iterable[str]) -> dict[str, ObjectInfo]:
        return {info.key: info for path in folders for info in self._store.list(keys.data_folder(path) + "/")}

    def _due(
        self, graveyard: Graveyard, listed: Mapping[str, ObjectInfo], *, live: bool
    ) -> tuple[dict[str, Gone], int]:
        now, due, waiting = self._clock.now(), {}, 0
        for pending in graveyard.pending:
            inside = f"{keys.data_folder(pending.tombstone.path)}/{keys.VERSIONS}/"
            for item in pending.objects:
                own = not item.key.startswith(inside)
                if item.identity in graveyard.undone or not item.is_still(listed.get(item.key)) or (live and own):
                    continue
                if now < pending.tombstone.remove_after:
                    waiting += 1
                else:
                    due[item.key] = item
        return due, waiting

    def _needed(self, among: Iterable[str]) -> set[str]:
        """Keys some snapshot names: any that is or may yet be committed, and none that was expired."""
        gone = expired_ids(self._store, self._dataset)
        return named_keys(self._store, self._dataset, among, wanted=lambda name: name not in gone)

    def _spare_named_again(self) -> None:
        """A key that a snapshot since the marking names begins its delay anew when it is left again."""
        committed = record_keys(self._store, self._dataset)
        for pending in read_graveyard(self._store, self._dataset).pending:
            marked = pending.tombstone.snapshot_committed_at
            since = {key.snapshot_id for key in committed if key.committed_at > marked}
            among = {item.key for item in pending.objects}
            if not since or not among:
                continue
            named = named_keys(self._store, self._dataset, among, wanted=since.__contains__)
            if named:
                spared = Spared.seal(
                    dataset=self._dataset,
                    tombstone=pending.tombstone.id,
                    why="named",
                    keys=tuple(sorted(named)),
                    reason="a later snapshot names them",
                    at=self._clock.now(),
                )
                write(self._store, spared.key, spared)

    def _expire(self, line: Sequence[CommitRecord], keep: Keep | None) -> list[CommitRecord]:
        pinned = {fork.forked_from for fork in read_forks(self._store, keys.root(self._dataset)) if fork.forked_from}
        chosen = [] if keep is None else keep.expired(line, self._clock.now(), pinned)
        for record in reversed(chosen):  # oldest first: cut off in between, what is left is still a line
            mark = Expired(dataset=self._dataset, snapshot_id=record.snapshot_id, site=self._site, at=self._clock.now())
            write(self._store, mark.key, mark)
            self._store.delete(record.key)
        self._clear_expired()
        return chosen

    def _clear_expired(self) -> None:
        """Remove what is left of the expired snapshots' documents; also after a run that died here."""
        gone = expired_ids(self._store, self._dataset)
        if not gone:
            return
        for key in record_keys(self._store, self._dataset):
            if key.snapshot_id in gone:
                self._store.delete(key.key)
        prefix = keys.root(self._dataset) + "/"
        for info in list(self._store.list(prefix)):
            if info.key.removeprefix(prefix).partition("/")[0] in gone:
                self._store.delete(info.key)
        for snapshot_id in gone:
            self._store.delete(keys.receipt_key(self._dataset, snapshot_id, self._site))

    def _drop_old_intents(self) -> None:
        dead = self._clock.now() - timedelta(seconds=LEASE_SECONDS)
        for removal in list(removals(self._store, self._dataset)):
            if removal.created_at < dead:
                self._store.delete(removal.key)

    def _remove(self, doomed: Mapping[str, Gone], folders: Collection[str]) -> dict[str, Gone]:
        started = self._clock.monotonic()
        intent = Removal(
            dataset=self._dataset,
            removal_id=uuid4().hex,
            site=self._site,
            keys=tuple(sorted(doomed)),
            created_at=self._clock.now(),
        )
        write(self._store, intent.key, intent)
        # From here on whoever publishes sees the intent; who published before is seen by this second look.
        graveyard = read_graveyard(self._store, self._dataset)
        still_marked, needed, listed = graveyard.marked, self._needed(doomed), self._list(folders)
        final = [
            item
            for key, item in doomed.items()
            if key not in needed
            and item.identity in still_marked
            and item.identity not in graveyard.undone
            and item.is_still(listed.get(key))
        ]
        removed: dict[str, Gone] = {}
        for number, item in enumerate(final):
            if number % CHUNK == 0:
                self._ask_guard(intent)
            if self._clock.monotonic() - started > LEASE_SECONDS / 2:
                break  # another run may think this one dead; the next goes on
            if self._is_still(item):
                self._store.delete(item.key)
                removed[item.key] = item
        self._store.delete(intent.key)
        return removed

    def _ask_guard(self, intent: Removal) -> None:
        try:
            self._guard()
        except BaseException:
            self._store.delete(intent.key)  # nothing more is removed under it
            raise

    def _is_still(self, item: Gone) -> bool:
        try:
            now = self._store.head(item.key)
        except ObjectNotFound:
            return False
        return item.size_bytes == now.size_bytes and item.e_tag == now.version.e_tag

    def _finish(self, graveyard: Graveyard, listed: Mapping[str, ObjectInfo]) -> None:
        for pending in graveyard.pending:
            left = [
                item
                for item in pending.objects
                if item.identity not in graveyard.undone and item.is_still(listed.get(item.key))
            ]
            if not left:
                finish(self._store, self._dataset, Finished(tombstone=pending.tombstone.id, at=self._clock.now()))


def _require(source: SourceState, where: str) -> None:
    reasons = []
    if source.healthy is not True:
        reasons.append("the source is not healthy" if source.healthy is False else "the source's health is not known")
    if source.listing_complete is not True:
        known = source.listing_complete is False
        reasons.append("its listing looks truncated" if known else "it is not known whether its listing is whole")
    if reasons:
        raise DeletesRefused(
            "nothing is marked or removed now",
            where=where,
            expected=f"{source.site} healthy and listed whole",
            found=" and ".join(reasons),
            fix="Run it again when the source is healthy and a plan listed it whole",
        )


def _unneeded(store: ObjectStore, newest: CommitRecord, graveyard: Graveyard, *, live: bool) -> list[Gone]:
    """What lies in the folder, is not of the newest snapshot, and is neither marked nor undone; by key."""
    folder = keys.data_folder(newest.path) + "/"
    inside = f"{folder}{keys.VERSIONS}/"
    listed = {info.key: info for info in store.list(folder)}
    opened = open_snapshot(store, newest)
    members = set(opened.manifest.paths)
    placed = opened.placed
    used = {placed[path].key if path in placed else folder + path for path in members}
    # What other tools put there under keys no store interface of ours takes is not ours to remove.
    plain = (key for key in listed if is_plain(key))
    candidates = sorted(key for key in plain if key not in used and (key.startswith(inside) or not live))
    known = named_keys(store, newest.dataset, candidates) if candidates else set()
    skip = graveyard.marked | graveyard.undone
    found = []
    for key in candidates:
        own = not key.startswith(inside)
        path = key.removeprefix(folder) if own else key.removeprefix(inside).partition("/")[2]
        if own and key not in known and not _came_with_a_replication(store, key, path):
            continue
        why: Why = "stray" if key not in known else "superseded" if path in members else "left"
        info = listed[key]
        item = Gone(
            path=path,
            key=key,
            why=why,
            size_bytes=info.size_bytes,
            e_tag=info.version.e_tag,
            version=info.version.version,
            modified_at=info.modified_at,
        )
        if item.identity not in skip:
            found.append(item)
    return found


def _came_with_a_replication(store: ObjectStore, key: str, path: str) -> bool:
    """Whether an object at its own key that no snapshot names was put there by Holdfast and not by somebody else."""
    try:
        return is_replica(store.open(key, byte_range=ByteRange(0, 1)).metadata, path)
    except ObjectNotFound:
        return False


def _check_limits(
    found: Sequence[Gone], newest: CommitRecord, policy: Deletes, approve: str | None, where: str, site: str
) -> str | None:
    """The approval these objects needed, ``None`` when they need none. Raises DeletesNeedApproval."""
    counted = [item for item in found if item.why != "stray"]
    left = {item.path for item in counted if item.why == "left"}
    total = newest.object_count + len(left)
    if len(counted) <= policy.most_objects and len(counted) <= policy.most_share * total:
        return None
    named = [newest.dataset, site, sorted(itertools.chain.from_iterable(_spelled(item) for item in counted))]
    approval_id = digest_of(canonical(named)).partition(":")[2][:16]
    if approve == approval_id:
        return approval_id
    raise DeletesNeedApproval(approval_id, len(counted), total, policy, where, counted[0].path)


def _spelled(item: Gone) -> list[str]:
    return ["\n".join((item.key, item.e_tag or "", item.version or ""))]
