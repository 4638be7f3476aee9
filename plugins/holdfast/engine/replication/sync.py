"""Sync: take a dataset's next snapshot and bring it to its targets, every changed object read once.

Order: residency; the source is listed; what changed is read, pinned, hashed on its way and landed at every target that
lacks it; the source is listed again, until two listings agree with all that was read; each target's folder is listed;
then the snapshot is published at the source, and at each target: placement, manifest, receipt, commit record last.
Cut off anywhere, every site still shows its old snapshot, and the next run copies only what is missing
(docs/reference/sync-protocol.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.clock import Clock
from holdfast.engine.config import Residency, Site
from holdfast.engine.config.sync import Sync
from holdfast.engine.replication.base import Base, find_base, refuse_superseded
from holdfast.engine.replication.drafts import DraftReader
from holdfast.engine.replication.feeds import Changes, apply_changes, as_listed
from holdfast.engine.replication.reports import Phase, ReadDraft, SyncProgress, SyncReport, SyncSite, TargetReport
from holdfast.engine.replication.rounds import Rounds, check_stop
from holdfast.engine.replication.source import (
    FACTS,
    STATE,
    Look,
    content,
    hashed_rows,
    left_over_rows,
    listing_of_state,
    look,
    manifest_table,
    merge,
    one_array,
    placement_of,
)
from holdfast.engine.replication.target import Run, Target, cut_off_rows
from holdfast.engine.replication.work import plan_round
from holdfast.engine.snapshot.errors import DatasetBusy, DatasetEmpty, Superseded
from holdfast.engine.snapshot.labels import LAST_FULL_LOOK, feed_labels, feed_labels_of, planned_from_feed
from holdfast.engine.snapshot.manifest import Manifest, write_table
from holdfast.engine.snapshot.publish import publish, seal_record
from holdfast.engine.snapshot.records import CommitRecord
from holdfast.engine.snapshot.tables import require_whole
from holdfast.engine.snapshot.take import ROUNDS, TakenSnapshot
from holdfast.errors import HoldfastError

__all__ = ["ReadDraft", "SyncProgress", "SyncReport", "SyncSite", "TargetReport", "sync_dataset"]

Validate = Callable[[TakenSnapshot, ReadDraft], None]
#: How often what does not stay at a target is brought there again.
MENDS = 5


def sync_dataset(
    source: SyncSite,
    targets: Sequence[SyncSite],
    *,
    dataset: str,
    folder: str,
    policy: Sync,
    epoch: int,
    residency: Residency | None,
    topology_sites: Mapping[str, Site],
    clock: Clock,
    changes: Changes | None = None,
    write_source: bool = True,
    validate: Validate | None = None,
    progress: Callable[[SyncProgress], None] | None = None,
    threads: int = 16,
    stop: threading.Event | None = None,
    run_id: str | None = None,
) -> SyncReport:
    """Take what is under ``data/<folder>/`` at the source and publish it there and at every target.

    A target that fails or refuses is in the report and does not stop the others.

    Args:
        source: the active site.
        targets: where it goes; each is served as far as it lets itself be served.
        dataset: the name it is published under.
        folder: folder under ``data/``.
        policy: what belongs to it, how it is copied and verified.
        epoch: the epoch in which the source is active.
        residency: the class of its bytes; ``None``: they may lie anywhere.
        topology_sites: the topology's sites, for the targets' jurisdictions and clouds.
        changes: what a change feed says; then only what it names is asked for. ``None``: the folder is listed.
        write_source: publish the snapshot at the source too. ``False`` for a source that may only be read.
        validate: called with the taken snapshot and a reader of its objects before it is published anywhere; what it
            raises ends the sync, and nothing is published.
        progress: called from the calling thread.
        threads: small objects in flight; how many requests a site really takes at once its store's own limits decide.
        stop: when set, the sync ends with `Interrupted`; the next one goes on from there.
        run_id: names this run in what it writes; 32 hex digits, by default new ones.

    Raises:
        DatasetEmpty: nothing lies there.
        DatasetBusy: objects kept changing, or others kept publishing (`Superseded`).
        LineSplit: it was published at the source, and so was another snapshot on top of the same one.
        Interrupted: ``stop`` was set. Nothing was published.
        BytesCorrupted, SourceDamaged: the source keeps giving other bytes than it says it has.
        TableDamaged: the dataset is a lake table whose newest version names files that are not there.
        SnapshotError, StoreUnavailable: the source could not be read or written. Or no target could, all of them
            failed; the snapshot is published at the source then, unless that may only be read.
    """
    tries: list[_Sync] = []
    while True:
        run = Run(source, dataset, folder, policy, epoch, residency, topology_sites, clock, run_id or uuid4().hex)
        tries.append(_Sync(run, targets, changes, write_source, validate, progress, threads, stop))
        try:
            return _all_in_all(tries[-1].run(), tries[:-1])
        except Superseded:
            # Somebody else published, or rolled back: all of it is looked at again on top of that. What has landed is
            # noted, so it is not copied again; the write id is another, for it is to be another snapshot.
            if len(tries) > ROUNDS:
                raise
            run_id = None


class _Sync:
    def __init__(
        self,
        run: Run,
        targets: Sequence[SyncSite],
        changes: Changes | None,
        write_source: bool,
        validate: Validate | None,
        progress: Callable[[SyncProgress], None] | None,
        threads: int,
        stop: threading.Event | None,
    ) -> None:
        self._run, self._changes, self._write_source = run, changes, write_source
        self._validate, self._progress, self._threads, self._stop = validate, progress, threads, stop
        self._source = run.source.store
        self.targets = [Target(run, site) for site in targets]
        self._rounds = Rounds(run, self.targets, threads=threads, stop=stop)
        self._base = Base(None, STATE.empty_table(), None)
        self._state = self._base.state
        self._now = self._taken_at = run.clock.now()
        self.changed_objects = self.read_bytes = self._hashed_bytes = 0
        #: Objects and all of them, bytes and all of them, as `SyncProgress` tells.
        self._done = (0, 0, 0, 0)
        self._wrong: HoldfastError | None = None

    def run(self) -> SyncReport:
        began = self._run.clock.monotonic()
        for target in self.targets:
            target.check_residency()
        self._tell("listing")
        self._base = find_base(self._run, self.targets, write_source=self._write_source)
        self._state = self._base.state
        seen = self._look()
        record = self._base.record
        if not (self._is_base(seen) and self._everybody_has(record)):
            seen, record = self._bring(seen)
        self._tidy()
        self._raise_if_all_failed()
        return SyncReport(
            record=None if record is self._base.record else record,
            snapshot_id=None if record is None else record.snapshot_id,
            source_site=self._run.source.site,
            changed_objects=self.changed_objects,
            read_bytes=self.read_bytes,
            targets=tuple(target.report() for target in self.targets),
            seconds=self._run.clock.monotonic() - began,
            refused_objects=seen.refused,
            planned_from="feed" if planned_from_feed(record) else "listing",
            last_full_look=None if record is None else feed_labels_of(record).get(LAST_FULL_LOOK),
        )

    # -- looking -------------------------------------------------------------------------------------------------------

    def _look(self) -> Look:
        check_stop(self._stop)
        run, listing = self._run, None
        if self._changes is not None:
            known = listing_of_state(self._base.state, run.prefix)
            ask = as_listed(self._source)
            listing = apply_changes(known, self._changes, ask, threads=self._threads, folder=run.prefix)
        return look(self._source, run.folder, self._state, policy=run.policy, now=self._now, listing=listing)

    def _is_base(self, seen: Look) -> bool:
        """Whether the source is as the newest snapshot says, and that has all the proof this run could give."""
        if self._changes is None and planned_from_feed(self._base.record):
            return False  # listed twice now, the same content becomes a snapshot with a proven moment
        same = self._base.record is not None and self._base.record.path == self._run.folder
        if not same or seen.fresh.num_rows:
            return False
        # Where nothing changed it is the very same table; to compare two costs as much memory as both.
        return seen.chosen is self._base.state or content(seen.chosen).equals(content(self._base.state))

    def _everybody_has(self, record: CommitRecord | None) -> bool:
        for target in self.targets:
            if target.active and record is not None:
                with target.trying():
                    target.look_for(record)
        return not self._waiting()

    def _waiting(self) -> list[Target]:
        return [target for target in self.targets if target.active and not target.served]

    # -- bringing ------------------------------------------------------------------------------------------------------

    def _bring(self, seen: Look) -> tuple[Look, CommitRecord | None]:
        """Have everything at the targets that take part, then publish there."""
        self._enlist(seen)
        seen = self._resume(seen)
        try:
            seen = self._until_whole(seen)
            if not seen.chosen.num_rows:
                raise self._empty(seen)
            record = self._base.record if self._is_base(seen) else self._publish(seen)
        except Exception:
            self._note()
            raise
        if record is not None:
            self._tell("publishing")
            manifest = self._base.manifest if record is self._base.record else None
            manifest = manifest or self._manifest(seen)
            for target in self._waiting():
                with target.trying():
                    target.publish(self._base.lineage or target.store, record, manifest.data)
        return seen, record

    def _enlist(self, seen: Look) -> None:
        """Have every active target that lacks what there is now take part."""
        old = self._base.record if self._is_base(seen) else None
        for target in self.targets:
            if target.active and (old is None or not target.served) and not target.enlisted:
                with target.trying():
                    target.enlist(self._base.lineage or target.store, old)

    def _resume(self, seen: Look) -> Look:
        """Take what runs that were cut off have noted instead of reading it again."""
        known = cut_off_rows(seen.fresh, self._waiting())
        if known.num_rows:
            seen = self._known_now(seen, known)
        for target in self._waiting():
            target.believe(seen.chosen)
            lacks = seen.chosen["path"].filter(target.lacking(seen.chosen))
            with target.trying():
                target.check_names(pa.chunked_array([*lacks.chunks, *seen.fresh["path"].chunks], pa.string()))
        return seen

    def _known_now(self, seen: Look, known: pa.Table) -> Look:
        """The same listing, with the digests of these objects known."""
        at = pc.index_in(known["path"], value_set=one_array(seen.fresh["path"]))
        self._state = merge(self._state, hashed_rows(seen.fresh.take(at), known["digest"]))
        return look(
            self._source,
            self._run.folder,
            self._state,
            policy=self._run.policy,
            now=self._now,
            listing=seen.listing,
        )

    def _until_whole(self, seen: Look) -> Look:
        """Copy and look again, until what was read stood together and everybody has it.

        Raises:
            DatasetBusy: it never did.
            BytesCorrupted, SourceDamaged: an object stays as it was by every listing and reads as something else.
        """
        confirmed, moves, mends = False, 0, 0
        while True:
            self._enlist(seen)
            work = plan_round(seen, self.targets, self._run.policy)
            whole = confirmed or self._is_base(seen)
            moved = self._copy(work, seen) if work.num_rows else 0
            if whole and not moved:
                if not work.num_rows and self._settled(seen):
                    return seen
                mends += 1
                self._lose_patience(seen, mends)
                continue
            self._taken_at = self._run.clock.now()
            self._tell("proving")
            later = self._look()
            confirmed = not later.fresh.num_rows and later.same_as(seen)
            moves += bool(moved) or not confirmed  # what reads wrong again and again is listed as it was
            if moves > ROUNDS:
                raise self._wrong or self._busy()
            seen = later

    def _copy(self, work: pa.Table, seen: Look) -> int:
        """Copy a round's work; how many objects moved under it."""
        self._done = (self._done[0], self._done[1] + work.num_rows, self._done[2], self._done[3] + _sum(work))
        moved = 0
        for outcome in self._rounds.copy(work, self._seen):
            fresh = outcome.work.select(["path", *FACTS])
            strays = fresh.take(pa.array(outcome.left_over, pa.int64()))
            rows = fresh.take(pa.array(outcome.hashed, pa.int64()))
            texts = (pa.array(column, pa.string()) for column in (outcome.digests, outcome.versions))
            self._state = merge(self._state, hashed_rows(rows, *texts))
            self._state = merge(self._state, left_over_rows(strays, self._state, seen.inside))
            self.changed_objects += len(outcome.hashed)
            self._hashed_bytes += outcome.hashed_bytes
            self.read_bytes += outcome.read_bytes
            self._wrong = outcome.wrong or self._wrong
            moved += outcome.moved + len(outcome.left_over)
        return moved

    def _seen(self, objects: int, size_bytes: int) -> None:
        done = self._done
        self._done = (done[0] + objects, done[1], done[2] + size_bytes, done[3])
        self._tell("copying")

    def _settled(self, seen: Look) -> bool:
        """Whether everything stands at every target that takes part, by listings made now."""
        whole = True
        for target in self._waiting():
            with target.trying():
                whole = target.settle(seen.chosen) and whole
        return whole

    def _lose_patience(self, seen: Look, mends: int) -> None:
        if mends <= MENDS:
            return
        for target in self._waiting():
            lacks = seen.chosen.filter(target.lacking(seen.chosen))
            if lacks.num_rows:
                target.give_up(lacks["path"][0].as_py())

    def _note(self) -> None:
        """Write down what has landed, for the next run."""
        for target in self._waiting():
            with target.trying():
                target.journal.flush()

    # -- publishing ----------------------------------------------------------------------------------------------------

    def _publish(self, seen: Look) -> CommitRecord | None:
        """The record of the new snapshot, committed at the source unless that may only be read."""
        run = self._run
        manifest = self._manifest(seen)
        taken = TakenSnapshot(
            dataset=run.dataset,
            path=run.folder,
            manifest=manifest,
            taken_at=self._taken_at,
            hashed_objects=self.changed_objects,
            hashed_bytes=self._hashed_bytes,
            placement_table=placement_of(seen, run.prefix),
        )
        read = DraftReader(seen.chosen, self._source, self._waiting()).read
        if run.policy.table != "none":
            require_whole(run.policy.table, manifest.paths, read)
        if self._validate is not None:
            self._validate(taken, read)
        check_stop(self._stop)
        parent = None if self._base.record is None else self._base.record.snapshot_id
        labels = None
        if self._changes is not None:  # of a log `as_of` is not when everything was looked at
            labels = feed_labels(self._changes.as_of if self._changes.full else None)
        if self._write_source:
            return publish(
                self._source,
                taken,
                epoch=run.epoch,
                site=run.source.site,
                parent=parent,
                clock=run.clock,
                write_id=run.run_id,
                labels=labels,
            )
        waiting = self._waiting()
        if not waiting:
            return None
        refuse_superseded(run, waiting, self._base)
        lineage = self._base.lineage or waiting[0].store
        return seal_record(
            lineage,
            taken,
            epoch=run.epoch,
            site=run.source.site,
            parent=parent,
            clock=run.clock,
            write_id=run.run_id,
            labels=labels,
        )

    def _manifest(self, seen: Look) -> Manifest:
        table = manifest_table(seen.chosen)
        return Manifest(table, write_table(table))

    def _tidy(self) -> None:
        """What is left over is no reason to call a target failed: the next run removes it."""
        for target in self.targets:
            if target.active:
                with suppress(HoldfastError):
                    target.tidy()

    def _raise_if_all_failed(self) -> None:
        errors = [target.error for target in self.targets if target.error is not None]
        if errors and not any(target.active for target in self.targets):
            raise errors[0]

    # -- telling -------------------------------------------------------------------------------------------------------

    def _tell(self, phase: Phase) -> None:
        if self._progress is not None:
            self._progress(SyncProgress(phase, *self._done))

    def _busy(self) -> DatasetBusy:
        return DatasetBusy(
            "the dataset kept changing while it was read",
            where=f"{self._source.name}: {self._run.prefix}",
            expected="one moment at which every object read still stood",
            found=f"changes in {ROUNDS} looks",
            fix="Sync when its writers are quiet, or write new objects instead of overwriting",
        )

    def _empty(self, seen: Look) -> DatasetEmpty:
        found = f"{seen.left_over.num_rows} objects that came with a replication" if seen.left_over.num_rows else "none"
        return DatasetEmpty(
            "the dataset has no objects",
            where=f"{self._source.name}: {self._run.prefix}",
            expected="at least one object",
            found=found,
            fix="Correct the dataset's path or filters",
        )


def _all_in_all(report: SyncReport, earlier: Sequence[_Sync]) -> SyncReport:
    """The report of the last try, with what the ones before it read and copied."""
    for one in earlier:
        there = {target.site: target.report() for target in one.targets}
        report = replace(
            report,
            changed_objects=report.changed_objects + one.changed_objects,
            read_bytes=report.read_bytes + one.read_bytes,
            targets=tuple(
                replace(
                    target,
                    copied_objects=target.copied_objects + there[target.site].copied_objects,
                    copied_bytes=target.copied_bytes + there[target.site].copied_bytes,
                )
                for target in report.targets
            ),
        )
    return report


def _sum(work: pa.Table) -> int:
    return int(pc.sum(work["size_bytes"]).as_py() or 0)
