"""Merge a dataset with writers at two sites: one snapshot of both sites' changes, at both and at every other target.

The peer is a second source. Both folders are listed and what changed is read, pinned and hashed; the three-way
comparison with the newest snapshot both have says who stands; each site gets what it lacks, by the rules of landing;
both are listed again until two looks agree at both. What each site's placement says lies there is derived from those
looks, so a write that comes later differs from it and is a change to the next run.

At the peer everything but the commit record is written *before* the commit at the active site. A run that dies between
the two commits leaves a prepared snapshot, and the next one begins by committing it: the peer's writes since are told
by the placement of that moment, not by an older one (docs/reference/sync-protocol.md, ADR 0008).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.clock import Clock
from holdfast.engine.config import Residency, Site
from holdfast.engine.config.sync import Sync
from holdfast.engine.policy import check_hop
from holdfast.engine.replication.drafts import DraftReader
from holdfast.engine.replication.errors import ReplicationError
from holdfast.engine.replication.merge_begin import Begun, begin
from holdfast.engine.replication.merge_note import MergeNote, noted, read_overruled, write_note
from holdfast.engine.replication.merging import Decision, decide, require_few_dropped
from holdfast.engine.replication.reports import (
    MergeReport,
    Phase,
    ReadDraft,
    SyncProgress,
    SyncReport,
    SyncSite,
    TargetReport,
)
from holdfast.engine.replication.rounds import Rounds, check_stop
from holdfast.engine.replication.source import Look, content, is_among, manifest_table
from holdfast.engine.replication.target import Run, Target
from holdfast.engine.replication.work import plan_round
from holdfast.engine.replication.written import Written, WrittenTarget, only
from holdfast.engine.snapshot.errors import DatasetBusy, DatasetEmpty, Superseded
from holdfast.engine.snapshot.manifest import Manifest, write_table
from holdfast.engine.snapshot.publish import publish
from holdfast.engine.snapshot.read import load_manifest
from holdfast.engine.snapshot.records import CommitRecord
from holdfast.engine.snapshot.take import ROUNDS, TakenSnapshot
from holdfast.errors import HoldfastError

Validate = Callable[[TakenSnapshot, ReadDraft], None]
#: How often what does not stay where it was brought is brought again.
MENDS = 5
#: A merged snapshot's labels: the site whose changes it has besides, and who won.
MERGED_WITH, WINNER, OVERRULED = "merged_with", "winner", "overruled"


@dataclass(frozen=True)
class MergeJob:
    """What is merged, and by which rules.

    Args:
        source: the active site.
        peer: the other site that is written to.
        targets: where else it goes; each is served as far as it lets itself be served.
        winner: the site whose state stands in a conflict: one of the two.
        approve: what a person passes on to let exactly these objects be dropped; see `MergeNeedsApproval`.
    """

    source: SyncSite
    peer: SyncSite
    targets: Sequence[SyncSite]
    dataset: str
    folder: str
    policy: Sync
    winner: str
    epoch: int
    residency: Residency | None
    topology_sites: Mapping[str, Site]
    clock: Clock
    validate: Validate | None = None
    progress: Callable[[SyncProgress], None] | None = None
    threads: int = 16
    stop: threading.Event | None = None
    approve: str | None = None


def merge_dataset(job: MergeJob) -> SyncReport:
    """Publish what both sites' writers made of a dataset since the newest snapshot both have.

    A target other than the two that fails or refuses is in the report and does not stop the others. When the active
    site or the peer fails before the commit, nothing is published.

    Raises:
        NoCommonSnapshot: the two sites never agreed.
        MergeNeedsApproval: the merge would drop too much without a person.
        ResidencyRefused: the data may not lie at one of the two.
        DatasetEmpty: nothing is left of it.
        DatasetBusy: objects kept changing, or others kept publishing (`Superseded`).
        LineSplit: it was published at the active site, and so was another snapshot on top of the same one.
        Interrupted: ``stop`` was set. Nothing was published.
        BytesCorrupted, SourceDamaged, ReplicaDamaged: one of the two keeps giving other bytes than it says it has.
        SnapshotError, StoreUnavailable: one of the two could not be read or written.
    """
    if job.winner not in (job.source.site, job.peer.site):
        raise ValueError(f"{job.winner!r} is neither {job.source.site} nor {job.peer.site}")
    tries: list[_Merge] = []
    while True:
        tries.append(_Merge(job))
        try:
            return tries[-1].run(tries[:-1])
        except Superseded:
            if len(tries) > ROUNDS:
                raise


class _Merge:
    def __init__(self, job: MergeJob) -> None:
        self._job, self._stop, self._clock = job, job.stop, job.clock
        run_id = uuid4().hex
        self._from_here, self._from_there = (self._run_of(site, run_id) for site in (job.source, job.peer))
        self._run, self._dataset, self._prefix = self._from_here, job.dataset, self._from_here.prefix
        #: The active site as the receiver of the peer's changes, and the other way round.
        self.home = WrittenTarget(self._from_there, job.source)
        self.peer = WrittenTarget(self._from_here, job.peer)
        self.others = [Target(self._from_here, site) for site in job.targets]
        self._away: list[Target] = [self.peer, *self.others]
        self._inward = self._rounds(self._from_there, [self.home])
        self._outward = self._rounds(self._from_here, self._away)
        self._now = self._taken_at = self._clock.now()
        self._done = (0, 0, 0, 0)
        self._wrong: HoldfastError | None = None
        self._busy_site = job.source.site
        self._begun: Begun
        self._sides: list[Written] = []
        self._believed: set[str] = set()

    def _run_of(self, site: SyncSite, run_id: str) -> Run:
        job = self._job
        sites = (job.residency, job.topology_sites)
        return Run(site, job.dataset, job.folder, job.policy, job.epoch, *sites, job.clock, run_id)

    def _rounds(self, run: Run, targets: Sequence[Target]) -> Rounds:
        return Rounds(run, targets, threads=self._job.threads, stop=self._stop)

    def run(self, earlier: Sequence[_Merge]) -> SyncReport:
        began = self._clock.monotonic()
        self._check_residency()
        self._tell("listing")
        self._begun = begin(self._run, self.peer)
        newest = self._begun.newest
        self._here = Written(self._from_here, self.home, newest)
        self._there = Written(self._from_there, self.peer, self._begun.newest_there)
        self._sides = [self._here, self._there]
        self._look()
        record, decision = newest, None
        peer_has_newest = self.peer.look_for(newest)
        if not (self._others_have(newest) and peer_has_newest and self._is_base()):
            record, decision = self._merge(peer_has_newest=peer_has_newest)
        self.home.serve(record)
        self._tidy()
        return self._report(record, decision, began, earlier)

    # -- where it begins -----------------------------------------------------------------------------------------------

    def _check_residency(self) -> None:
        job = self._job
        for site, other in ((job.source.site, job.peer.site), (job.peer.site, job.source.site)):
            check_hop(job.dataset, job.residency, site, job.topology_sites, source=other)
        for target in self.others:
            target.check_residency()

    # -- looking -------------------------------------------------------------------------------------------------------

    def _look(self) -> tuple[Look, Look]:
        check_stop(self._stop)
        return self._here.look(self._now), self._there.look(self._now)

    def _is_base(self) -> bool:
        return self._here.is_base() and self._there.is_base()

    def _others_have(self, record: CommitRecord) -> bool:
        for target in self.others:
            if target.active:
                with target.trying():
                    target.look_for(record)
        return not self._waiting()

    def _waiting(self) -> list[Target]:
        return [target for target in self.others if target.active and not target.served]

    # -- merging -------------------------------------------------------------------------------------------------------

    def _merge(self, *, peer_has_newest: bool) -> tuple[CommitRecord, Decision]:
        store, record = self._job.source.store, self._begun.newest
        try:
            for written, other in ((self.home, self._there), (self.peer, self._here)):
                written.enlist(store, None)
                other.resume([written], self._now)
            for target in self.others:
                if target.active:
                    with target.trying():
                        target.enlist(store, None)
            decision = self._until_whole()
            if not decision.merged.num_rows:
                raise self._empty()
            is_newest = self._here.is_base() and _same_content(decision.merged, self._here.base)
            if is_newest and not peer_has_newest:
                self._prepare(record, decision, load_manifest(store, record).data)
                self._finish(record)
            elif not (is_newest and self._there.is_base()):
                record = self._publish(decision)
                self._finish(record)
            else:
                self.peer.look_for(record)  # it was enlisted, and has it: what it was told is tidied up there too
        except Exception:
            self._note()
            raise
        self._tell("publishing")
        manifest = load_manifest(store, record).data
        for target in self._waiting():
            with target.trying():
                target.publish(store, record, manifest)
        return record, decision

    def _until_whole(self) -> Decision:
        """Read, decide and bring, and look again, until two looks agree at both sites with all that was read and
        everybody has everything.

        Raises:
            DatasetBusy: they never did.
        """
        moves = mends = 0
        before: tuple[Look, Look] | None = None
        self._there.verify_kept(self._job.threads)
        while True:
            moved = self._read_fresh()
            seen = (self._here.seen, self._there.seen)
            agreed = before is not None and not moved and all(map(Look.same_as, seen, before))
            if not moved:
                decision = decide(self._begun.manifest, self._here, self._there, self._job.winner)
                limits = self._job.policy.deletes
                require_few_dropped(decision, self._begun.manifest, self._here, self._there, limits, self._job.approve)
                brought = self._bring(decision)
                if agreed and brought == 0 and self._settled(decision):
                    return decision
                mends += agreed
                if mends > MENDS:
                    raise self._wrong or self._busy()
            moves += bool(moved) or (before is not None and not agreed)
            if moves > ROUNDS:
                raise self._wrong or self._busy()
            before = None if moved else seen
            self._taken_at = self._clock.now()
            self._tell("proving")
            self._look()

    def _read_fresh(self) -> int:
        """Read and hash what either site changed, landing what it alone changed on the way; how much moved."""
        common = self._begun.manifest.table
        here, there = self._here, self._there
        changed_here, changed_there = here.changed(common), there.changed(common)
        moved = 0
        for side, targets, rounds, others in (
            (there, [self.home], self._inward, changed_here),
            (here, self._away, self._outward, changed_there),
        ):
            seen = side.seen
            if not seen.fresh.num_rows:
                continue
            work = plan_round(replace(seen, chosen=seen.chosen.slice(0, 0)), targets, self._run.policy)
            for number in range(len(targets)):  # what both touched is hashed first: it may lose, or be the same
                name = f"need_{number}"
                lands = pc.and_(work[name], pc.invert(is_among(work["path"], others)))
                work = work.set_column(work.schema.get_field_index(name), name, lands)
            moved += self._copy(side, rounds, work)
            side.know_more(self._now)
            if side.seen.fresh.num_rows and not moved:
                moved += side.seen.fresh.num_rows
        return moved

    def _copy(self, side: Written, rounds: Rounds, work: pa.Table) -> int:
        size_bytes = int(pc.sum(work["size_bytes"]).as_py() or 0)
        self._done = (self._done[0], self._done[1] + work.num_rows, self._done[2], self._done[3] + size_bytes)
        moved = 0
        for outcome in rounds.copy(work, self._seen):
            moved += side.take(outcome)
            self._wrong = outcome.wrong or self._wrong
        for target in (self.home, self.peer):
            _require(target)
        if moved:
            self._busy_site = side.site
        return moved

    def _bring(self, decision: Decision) -> int:
        """Bring each site what it lacks; how many objects were copied, or could not be."""
        there = self._there
        wanted = there.seen.chosen.filter(is_among(there.seen.chosen["path"], decision.merge.to_left["path"]))
        self._believe_once(self.home, wanted)
        self.home.check_names(wanted["path"])
        work = plan_round(only(there.seen, wanted), [self.home], self._run.policy)
        if work.num_rows:
            self._copy(there, self._inward, work)
            return int(work.num_rows)
        settled = self._here.place(decision.merged)
        if settled is None:
            return 1  # what was brought here shows in the next listing
        self.home.settled(settled)
        rows = settled.placement.filter(pc.is_valid(settled.placement["key"]))
        for target in (self.peer, *self._waiting()):
            with target.trying():
                self._believe_once(target, rows)
                target.check_names(rows["path"].filter(target.lacking(rows)))
        _require(self.peer)
        work = plan_round(only(self._here.seen, rows), self._away, self._run.policy)
        if work.num_rows:
            self._copy(self._here, self._outward, work)
        return int(work.num_rows)

    def _believe_once(self, target: Target, rows: pa.Table) -> None:
        """Take what a run that was cut off noted; what turns out not to stand is not believed again."""
        if rows.num_rows and target.site not in self._believed:
            self._believed.add(target.site)
            target.believe(rows)

    def _settled(self, decision: Decision) -> bool:
        """Whether everything stands at every site: at the two by the looks that agreed, elsewhere by a listing now."""
        here, there = self._here.place(decision.merged), self._there.place(decision.merged)
        if here is None or there is None:
            return False
        self.home.settled(here)
        self.peer.settled(there)
        whole = True
        for target in self._waiting():
            with target.trying():
                whole = target.settle(decision.merged) and whole
        return whole

    def _seen(self, objects: int, size_bytes: int) -> None:
        done = self._done
        self._done = (done[0] + objects, done[1], done[2] + size_bytes, done[3])
        self._tell("copying")

    # -- publishing ----------------------------------------------------------------------------------------------------

    def _publish(self, decision: Decision) -> CommitRecord:
        """The merged snapshot, prepared at the peer and committed at the active site."""
        job, placed = self._job, self.home.placement()
        rows = placed.filter(pc.is_valid(placed["key"]))
        table = manifest_table(rows)
        manifest = Manifest(table, write_table(table))
        taken = TakenSnapshot(
            dataset=self._dataset,
            path=job.folder,
            manifest=manifest,
            taken_at=self._taken_at,
            hashed_objects=self._here.hashed_objects + self._there.hashed_objects,
            hashed_bytes=self._here.hashed_bytes + self._there.hashed_bytes,
            placement_table=self._placement_or_none(placed),
        )
        if job.validate is not None:
            job.validate(taken, DraftReader(rows, job.source.store, self._away).read)
        check_stop(self._stop)
        return publish(
            job.source.store,
            taken,
            epoch=job.epoch,
            site=job.source.site,
            parent=self._begun.newest.snapshot_id,
            clock=self._clock,
            write_id=self._run.run_id,
            labels={MERGED_WITH: job.peer.site, WINNER: job.winner, OVERRULED: str(len(decision.overruled))},
            prepare=lambda record: self._prepare(record, decision, manifest.data),
        )

    def _prepare(self, record: CommitRecord, decision: Decision, manifest: bytes) -> None:
        """Before the commit at the active site: who is overruled, at both; and all of the peer's but its commit."""
        job = self._job
        note = MergeNote(
            dataset=self._dataset,
            snapshot_id=record.snapshot_id,
            active_site=job.source.site,
            peer=job.peer.site,
            winner=job.winner,
            common_snapshot_id=self._begun.common.snapshot_id,
            overruled=noted(decision.overruled),
        )
        for site in (job.source, job.peer):
            write_note(site.store, note)
        self.peer.prepare(record, manifest)

    def _finish(self, record: CommitRecord) -> None:
        """Commit at the peer; when that fails it is told, and the next run does it."""
        with self.peer.trying():
            self.peer.finish(self._job.source.store, record, self.peer.placement())

    def _placement_or_none(self, placed: pa.Table) -> pa.Table | None:
        """``None``: all objects lie at their own keys, and nothing else beside them."""
        own = pc.binary_join_element_wise(self._prefix, placed["path"], "")
        at_own = pc.fill_null(pc.equal(own, placed["key"]), False)
        return None if pc.all(at_own).as_py() is not False else placed

    def _note(self) -> None:
        """Write down what has landed, for the next run."""
        for target in (self.home, *self._away):
            if target.active and target.enlisted:
                with suppress(HoldfastError):
                    target.journal.flush()

    def _tidy(self) -> None:
        for target in (self.home, *self._away):
            if target.active:
                with suppress(HoldfastError):
                    target.tidy()

    # -- telling -------------------------------------------------------------------------------------------------------

    def _report(
        self, record: CommitRecord, decision: Decision | None, began: float, earlier: Sequence[_Merge]
    ) -> SyncReport:
        tries = [*earlier, self]
        sides = [side for one in tries for side in one._sides]
        finished = [one.finished for one in (each._begun for each in tries if each._sides) if one.finished is not None]
        overruled = [
            one for done in finished for one in read_overruled(self._job.source.store, self._dataset, done.snapshot_id)
        ]
        homes = [one.home.report() for one in tries]
        return SyncReport(
            record=None if record is self._begun.newest else record,
            snapshot_id=record.snapshot_id,
            source_site=self._job.source.site,
            changed_objects=sum(side.hashed_objects for side in sides),
            read_bytes=sum(side.read_bytes for side in sides),
            targets=tuple(_in_all([one._away[number].report() for one in tries]) for number in range(len(self._away))),
            seconds=self._clock.monotonic() - began,
            refused_objects=self._here.seen.refused,
            merge=MergeReport(
                peer=self._job.peer.site,
                winner=self._job.winner,
                common_snapshot_id=self._begun.common.snapshot_id,
                from_active_objects=_count(decision, "left"),
                from_peer_objects=_count(decision, "right"),
                same_objects=0 if decision is None else decision.count("same change"),
                removed_objects=0 if decision is None else len(decision.dropped),
                brought_objects=sum(one.copied_objects for one in homes),
                brought_bytes=sum(one.copied_bytes for one in homes),
                overruled=(*overruled, *(() if decision is None else decision.overruled)),
                refused_at_peer=self._there.seen.refused,
                finished_snapshot_id=finished[-1].snapshot_id if finished else None,
            ),
        )

    def _tell(self, phase: Phase) -> None:
        if self._job.progress is not None:
            self._job.progress(SyncProgress(phase, *self._done))

    def _busy(self) -> DatasetBusy:
        return DatasetBusy(
            "the dataset kept changing while it was merged",
            where=f"{self._dataset} at {self._job.source.site} and {self._job.peer.site}",
            expected="one moment at which every object read still stood at both",
            found=f"changes in {ROUNDS} looks, last at {self._busy_site}",
            fix="Sync when its writers are quiet, or write new objects instead of overwriting; nothing was published",
        )

    def _empty(self) -> DatasetEmpty:
        return DatasetEmpty(
            "nothing is left of the dataset",
            where=f"{self._dataset} at {self._job.source.site} and {self._job.peer.site}",
            expected="at least one object",
            found="none",
            fix="Correct the dataset's path or filters, or put its objects back",
        )


def _in_all(reports: Sequence[TargetReport]) -> TargetReport:
    """The report of the last try, with what the ones before it copied."""
    copied = {name: sum(getattr(one, name) for one in reports) for name in ("copied_objects", "copied_bytes")}
    return replace(reports[-1], **copied)


def _require(target: Target) -> None:
    """Raises what ended a part that cannot be missing."""
    if target.error is not None:
        raise target.error
    if target.refused is not None:
        raise ReplicationError(target.refused)


def _count(decision: Decision | None, side: str) -> int:
    return 0 if decision is None else decision.count(*(f"{verb} {side}" for verb in ("added", "changed", "deleted")))


def _same_content(merged: pa.Table, state: pa.Table) -> bool:
    return bool(merged.equals(content(state).select(merged.schema.names).cast(merged.schema)))
