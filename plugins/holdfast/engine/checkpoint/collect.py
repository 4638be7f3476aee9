"""Remove checkpoints nobody keeps, in two phases with a grace between them. docs/formats/checkpoint.md specifies it.

Phase one writes, create-only, which manifests go and which blobs then nobody names; then it deletes those manifests:
without its manifest a checkpoint does not exist. Phase two, in a call at least the grace later, reads all manifests
again and deletes those of the blobs that still nobody names, then the record. A call that dies anywhere leaves a state
that the next one finishes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from holdfast.clock import Clock
from holdfast.engine.checkpoint.commit import require_permission
from holdfast.engine.checkpoint.elect import Allowed, in_line, refusal
from holdfast.engine.checkpoint.errors import CheckpointUnreadable, Fenced
from holdfast.engine.checkpoint.format import CheckpointManifest, blob_key, run_root
from holdfast.engine.checkpoint.guard import WriteGuard
from holdfast.engine.checkpoint.retention import Choice, KeepPolicy, Retired, choose
from holdfast.engine.checkpoint.retired import (
    Manifests,
    RetiredManifest,
    RetiredRecord,
    blobs_held,
    blobs_named,
    read_manifests,
    read_records,
    record_key,
    retired_prefix,
)
from holdfast.engine.checkpoint.verify import damage, is_there, without_its_size
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore
from holdfast.engine.snapshot.lineage import EpochFork, read_forks, require_fork
from holdfast.engine.snapshot.once import create_or_read
from holdfast.errors import ConfigError

#: Manifests are read again before every so many deletions: the window of a blob taken into use meanwhile stays short.
BLOBS_AT_ONCE = 100


class GraceInvalid(ConfigError):
    """The grace between the phases is no length of time."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What one call found and did.

    ``deleted_blobs`` and ``finished`` are of phase two, ``record`` is what phase one wrote. ``waiting`` are the
    records left: their grace is not over, or they cannot be read. ``endangered`` are keys of manifests that were
    committed while a blob they name was deleted: an election passes them over, and their writer must not trust what
    it knows to be in the store.
    """

    choice: Choice
    record: str | None = None
    deleted_blobs: tuple[str, ...] = ()
    finished: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    endangered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Work:
    """What every part of one call needs."""

    store: ObjectStore
    run: str
    epoch: int
    guard: WriteGuard

    def permit(self) -> None:
        require_permission(self.guard, where=f"{self.store.name}: {run_root(self.run)}", epoch=self.epoch)

    def delete(self, key: str) -> None:
        self.permit()
        self.store.delete(key)


def collect(
    store: ObjectStore,
    run: str,
    policy: KeepPolicy,
    *,
    epoch: int,
    guard: WriteGuard,
    clock: Clock,
    grace_seconds: float,
    site: str | None = None,
    allowed: Allowed | None = None,
    metrics: Mapping[str, float] | None = None,
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    dry_run: bool = False,
) -> Collected:
    """Delete what was retired long enough ago, then retire what the policy does not keep.

    Every byte of the newest electable checkpoint is read, so that something verified stays; of the others the blobs'
    sizes are compared with one listing. While nothing is verified, nothing at all is deleted.

    Args:
        epoch: the newest committed epoch, from the authority.
        guard: says, before every write and deletion, whether this epoch still counts.
        clock: dates the record for its readers. The grace is counted by the store's own clock alone.
        grace_seconds: how long a blob outlives the last manifest that named it. Longer than any restore, replication
            or save takes.
        site, allowed: as for `elect`: what may be elected here.
        metrics: as for `choose`.
        new_id: 32 hex digits, other ones each time.
        dry_run: say what would be retired, and write nothing.

    Raises:
        Fenced: the epoch is over, by the guard or by a newer fork in this bucket; nothing more is deleted.
        WritesHeld: it is not known whether it is.
        EpochUnknownHere: this bucket does not know where the epoch forked from.
        FormatUnknown: a manifest of another format is here; what it needs is not known.
        GraceInvalid: the grace is negative or no number.
        ObjectStoreError: the store did not do it; call again.
    """
    _require_grace(grace_seconds)
    work = _Work(store, run, epoch, guard)
    work.permit()
    fork, forks = require_fork(store, run_root(run), epoch), read_forks(store, run_root(run))
    _require_newest(work, forks)
    manifests = read_manifests(store, run)
    line = in_line(manifests.readable, epoch=epoch, fork=fork)
    verified, damaged = _soundness(work, line, site=site, allowed=allowed)
    choice = choose(manifests.readable, verified, policy, epoch=epoch, forks=forks, damaged=damaged, metrics=metrics)
    records = dict(read_records(store, run))
    if dry_run or not verified:
        return Collected(choice, waiting=tuple(records))
    done = _phase_two(work, Collected(choice), records, grace_seconds)
    return _phase_one(work, done, manifests, new_id(), clock) if choice.retired else done


# -- phase one ------------------------------------------------------------------------------------------------------


def _phase_one(work: _Work, so_far: Collected, manifests: Manifests, record_id: str, clock: Clock) -> Collected:
    """The record first, then the manifests go.

    Every call writes a record of its own, also for manifests that an earlier call had retired and then died: the
    grace of their blobs begins now, when they really go.
    """
    retired = so_far.choice.retired
    record = RetiredRecord(
        run=work.run,
        epoch=work.epoch,
        retired_at=clock.now(),
        write_id=record_id,
        manifests=tuple(
            RetiredManifest(key=one.manifest.key, digest=one.manifest.digest, reason=one.reason) for one in retired
        ),
        blobs=tuple(sorted(_unnamed_without(retired, manifests))),
    )
    key = record_key(work.run, record_id)
    work.permit()
    if create_or_read(work.store, key, record.to_json(), content_type="application/json") != record.to_json():
        raise CheckpointUnreadable(
            "another retirement has this record's id", where=key, expected="a new id", found=record_id
        )
    for one in retired:
        # Not when another collection took it, or took it and a resumed run reached that step of its epoch again.
        if is_there(work.store, one.manifest):
            work.delete(one.manifest.key)
    return replace(so_far, record=key, waiting=(*so_far.waiting, key))


def _unnamed_without(retired: Sequence[Retired], manifests: Manifests) -> frozenset[str]:
    gone = {one.manifest.digest for one in retired}
    staying = blobs_named(found for found in manifests.readable if found.digest not in gone)
    return blobs_named(one.manifest for one in retired) - staying - manifests.loose


# -- phase two ------------------------------------------------------------------------------------------------------


def _phase_two(
    work: _Work, so_far: Collected, records: Mapping[str, RetiredRecord | None], grace_seconds: float
) -> Collected:
    """Finish the records whose grace is over by the store's clock."""
    if not records:
        return so_far
    due = _due(work, records, grace_seconds)
    waiting = {key: record for key, record in records.items() if key not in due}
    # What a younger retirement names as well waits for that one's grace.
    held = frozenset[str]().union(*(blobs_held(work.store, key, record) for key, record in waiting.items()))
    deleted: list[str] = []
    for key, record in due.items():
        deleted += _delete_blobs(work, sorted(set(record.blobs) - held))
        _delete_receipts(work, record)
        work.delete(key)
    return replace(
        so_far,
        deleted_blobs=tuple(deleted),
        finished=tuple(due),
        waiting=tuple(waiting),
        endangered=_endangered(work, deleted),
    )


def _due(work: _Work, records: Mapping[str, RetiredRecord | None], grace_seconds: float) -> dict[str, RetiredRecord]:
    now = _store_now(work)
    due = {}
    for key, record in records.items():
        try:
            modified_at = work.store.head(key).modified_at
        except ObjectNotFound:  # another collection finished it
            continue
        if record is not None and (now - modified_at).total_seconds() >= grace_seconds:
            due[key] = record
    return due


def _store_now(work: _Work) -> datetime:
    """The time by the clock that dates the records: of an object written now, in the same bucket."""
    key = f"{retired_prefix(work.run)}clock"
    work.permit()
    work.store.put(key, b"", mode=OVERWRITE)
    return work.store.head(key).modified_at


def _delete_blobs(work: _Work, blobs: Sequence[str]) -> list[str]:
    deleted = []
    for start in range(0, len(blobs), BLOBS_AT_ONCE):
        named = read_manifests(work.store, work.run).named
        for digest in blobs[start : start + BLOBS_AT_ONCE]:
            if digest not in named:
                work.delete(blob_key(work.run, digest))
                deleted.append(digest)
    return deleted


def _delete_receipts(work: _Work, record: RetiredRecord) -> None:
    """A receipt of what is gone would vouch for a copy that came back unread."""
    present = {manifest.digest for manifest in read_manifests(work.store, work.run).readable}
    for one in record.manifests:
        if one.digest not in present:
            for info in work.store.list(f"receipts/{work.run}/{one.digest.replace(':', '-')}/"):
                work.delete(info.key)


def _endangered(work: _Work, deleted: Sequence[str]) -> tuple[str, ...]:
    if not deleted:
        return ()
    gone = set(deleted)
    return tuple(
        found.key
        for found in read_manifests(work.store, work.run).readable
        if not gone.isdisjoint(blobs_named([found]))
    )


# -- before both ----------------------------------------------------------------------------------------------------


def _soundness(
    work: _Work, line: Sequence[CheckpointManifest], *, site: str | None, allowed: Allowed | None
) -> tuple[set[str], set[str]]:
    """(verified, damaged): the newest that an election here would take, and what is known not to be whole."""
    damaged = without_its_size(work.store, work.run, line)
    for found in line:
        if found.digest in damaged or refusal(work.store, found, site=site, allowed=allowed) is not None:
            continue
        if damage(work.store, found) is None:
            return {found.digest}, damaged
        damaged.add(found.digest)
    return set(), damaged


def _require_newest(work: _Work, forks: Sequence[EpochFork]) -> None:
    newest = max((fork.epoch for fork in forks), default=work.epoch)
    if newest > work.epoch:
        raise Fenced(
            "this epoch is over; nothing was retired",
            where=f"{work.store.name}: {run_root(work.run)}",
            expected=f"epoch {work.epoch} to be the newest",
            found=f"a fork record of epoch {newest}",
            fix="Collect as the newest epoch",
        )


def _require_grace(grace_seconds: float) -> None:
    if not 0 <= grace_seconds < float("inf"):
        raise GraceInvalid(
            "the grace is no length of time", where="grace_seconds", expected="0 or more", found=repr(grace_seconds)
        )
