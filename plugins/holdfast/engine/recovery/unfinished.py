"""Which runs of a job a plan takes to the new site, and which of them it starts there again."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.checkpoint import CheckpointManifest, Election, elect, newest
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.recovery.interface import Rooms
from holdfast.engine.recovery.plan import Plan
from holdfast.engine.recovery.protection import ProtectionNote, read_note
from holdfast.engine.recovery.residency import checkpoints_allowed
from holdfast.engine.recovery.subjects import RunTraces, base_run, of_epoch, published_runs, traces_of
from holdfast.errors import HoldfastError


@dataclass(frozen=True)
class RunPoint:
    """The checkpoint a run goes on from.

    Args:
        left: why the plan does not start it again; it is forked all the same, so that whoever asks for it can. None:
            it is resumed.
    """

    job: str
    run: str
    election: Election
    left: str | None = None


@dataclass(frozen=True)
class RunToTake:
    """A run that has no model yet, or is its job's newest.

    Args:
        begins: there is no checkpoint of it anywhere: it starts anew.
        ended: why it is not resumed; None: it is.
        reached: its newest checkpoint here, of one that is not resumed.
    """

    job: str
    run: str
    begins: bool = False
    ended: str | None = None
    reached: CheckpointManifest | None = None


def runs_to_take(rooms: Rooms, plan: Plan, job: str) -> list[RunToTake]:
    """The runs of a job that the plan takes along, in the order in which they were begun.

    Of those that ended well only the newest. Of the others every one is resumed but those that are known to have
    ended by themselves, or have done all their steps: starting these again is a person's decision.

    Raises:
        EpochUnknownHere: the target does not know where the ending epoch forked from.
        ObjectStoreError: the target does not answer.
    """
    store, epoch = rooms.store(plan.target), plan.expected_epoch
    traces = of_epoch(traces_of(store, plan.group, job), epoch)
    published = published_runs(store, rooms.topology.job(job).model, epoch=epoch)
    note = read_note(store, plan.group, base_run(plan.group, job), plan.target)
    older = [_to_take(rooms, store, plan, job, one.run, note) for one in traces[:-1] if one.run not in published]
    found = [one for one in older if one is not None] + [RunToTake(job, one.run) for one in traces[-1:]]
    known = {one.run for one in traces} | published
    return found + [
        RunToTake(job, one.run, begins=True)
        for one in (_at_source(rooms, plan, job) if plan.verb == "switchover" else ())
        if one.run not in known and one.attempts_in(epoch) and not one.has_checkpoints
    ]


def run_point(rooms: Rooms, plan: Plan, taken: RunToTake) -> RunPoint:
    """Elect at the target what a run goes on from. Raises as `elect`."""
    if taken.begins:
        return RunPoint(taken.job, taken.run, _election(taken.run, plan.expected_epoch, None))
    if taken.ended is not None:
        # Its bytes are read when somebody starts it: an election then takes an ancestor if they are damaged.
        return RunPoint(taken.job, taken.run, _election(taken.run, plan.expected_epoch, taken.reached), taken.ended)
    allowed = checkpoints_allowed(rooms.topology, taken.job, plan.target)
    store = rooms.store(plan.target)
    found = elect(store, taken.run, epoch=plan.expected_epoch, site=plan.target, allowed=allowed, or_nothing=True)
    return RunPoint(taken.job, taken.run, found)


def runs_to_stop(rooms: Rooms, plan: Plan, job: str) -> tuple[str, ...]:
    """The runs whose jobs at the source may live, oldest first: what the target knows of, and the source if it answers.

    Raises:
        EpochUnknownHere, ObjectStoreError: of the target.
    """
    store, epoch = rooms.store(plan.target), plan.expected_epoch
    published = published_runs(store, rooms.topology.job(job).model, epoch=epoch)
    here = of_epoch(traces_of(store, plan.group, job), epoch)
    there = _at_source(rooms, plan, job)
    newest_here = {one.run for one in here[-1:]}
    asked = {one.run: one.began_at for one in (*here, *there) if one.run not in published or one.run in newest_here}
    return tuple(sorted(asked, key=lambda run: (asked[run], run)))


def _at_source(rooms: Rooms, plan: Plan, job: str) -> tuple[RunTraces, ...]:
    """The runs of the ending epoch that the source knows; none where it does not answer."""
    try:
        found = traces_of(rooms.store(plan.source), plan.group, job)
    except HoldfastError:
        return ()
    epoch = plan.expected_epoch
    return tuple(one for one in found if one.goes_on_in(epoch) or one.attempts_in(epoch))


def _to_take(
    rooms: Rooms, store: ObjectStore, plan: Plan, job: str, run: str, note: ProtectionNote | None
) -> RunToTake | None:
    """One that is not its job's newest; None: nothing of it can be read here."""
    allowed = checkpoints_allowed(rooms.topology, job, plan.target)
    try:
        reached = newest(store, run, epoch=plan.expected_epoch, site=plan.target, allowed=allowed)
    except HoldfastError as error:
        if error.transient:
            raise
        return None  # no reason to keep the group where it is: whoever asks for it is told
    return RunToTake(job, run, ended=_why_ended(rooms, plan, job, run, reached, note), reached=reached)


def _why_ended(
    rooms: Rooms, plan: Plan, job: str, run: str, reached: CheckpointManifest | None, note: ProtectionNote | None
) -> str | None:
    if reached is not None and reached.step >= rooms.topology.job(job).steps:
        return f"it had done its {reached.step} steps"
    if note is None or note.epoch != plan.expected_epoch or run not in note.ended_runs:
        return None
    if reached is not None and reached.saved_at > note.as_of:
        return None  # somebody started it again since
    return f"its job had ended, or there was none, at {note.as_of:%Y-%m-%d %H:%M:%S} UTC"


def _election(run: str, epoch: int, reached: CheckpointManifest | None) -> Election:
    if reached is None:
        return Election(run, epoch, None, None, 0, "from the start")
    return Election(run, epoch, reached, reached.digest, reached.step, "numerically equivalent")
