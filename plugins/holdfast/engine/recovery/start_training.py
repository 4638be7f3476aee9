"""Start a run of a training job at the active site, or find it there: never two writers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from holdfast.engine.authority.interface import EpochState, Operation
from holdfast.engine.checkpoint import begin_run, elect
from holdfast.engine.compute import ENDED, JobHandle, JobState
from holdfast.engine.compute.attempts import Attempts
from holdfast.engine.compute.placement import ANYWHERE
from holdfast.engine.config.compute import Placement
from holdfast.engine.config.models import NoCapacityPolicy
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.policy import TRAIN, check_hop, residency_for
from holdfast.engine.recovery.errors import RecoveryError
from holdfast.engine.recovery.fork_late import fork_late
from holdfast.engine.recovery.interface import Rooms
from holdfast.engine.recovery.jobs import find_job
from holdfast.engine.recovery.placing import (
    Answer,
    GivenUp,
    NoRoom,
    Placed,
    Say,
    Wanted,
    describe,
    move_on_at,
    place,
    say_nothing,
)
from holdfast.engine.snapshot import EpochUnknownHere, latest
from holdfast.errors import ConfigError

#: Jobs that ended like this get another attempt when they are submitted.
_STARTED_AGAIN = ENDED - {JobState.SUCCEEDED}


class TrainingMustWait(RecoveryError):
    """The group is on its way to another site; what trains in it is started when it has arrived."""

    transient = True


class TrainingGivenUp(RecoveryError):
    """The run is not started again by itself: it failed by itself, lost too many machines, or has no machine to get.

    Args:
        epoch, attempt: of the last attempt; who asks again says that he knows of it.
    """

    def __init__(self, what: str, *, epoch: int, attempt: int, **facts: str | None) -> None:
        super().__init__(what, **facts)
        self.epoch, self.attempt = epoch, attempt


class NoMachine(RecoveryError):
    """No placement has a machine now; nothing runs.

    Args:
        ask_again_at: before this nobody asks a service again; None: asking again does not help.
        policy: what the group gives up.
    """

    exit_code = 7
    transient = True

    def __init__(
        self, what: str, *, ask_again_at: datetime | None, policy: NoCapacityPolicy, **facts: str | None
    ) -> None:
        super().__init__(what, **facts)
        self.ask_again_at, self.policy = ask_again_at, policy


@dataclass(frozen=True, slots=True)
class StartedJob:
    """A training job that runs, or ran, and where to find it.

    Args:
        attempt: which attempt of the run in this epoch it is; 0: it was started before attempts were written down.
        submitted: this call started it.
        move_on_at: when it is to be asked for again if it still waits for a machine; None: it may wait.
    """

    run: str
    epoch: int
    site: str
    dataset_snapshot: str
    handle: JobHandle
    attempt: int = 0
    placement: Placement = ANYWHERE
    submitted: bool = False
    move_on_at: datetime | None = None


def start_run(
    rooms: Rooms,
    group: str,
    job: str,
    *,
    run: str,
    state: EpochState,
    again_after: int | None = None,
    say: Say = say_nothing,
) -> StartedJob:
    """Start a run at the site that is active in ``state``, or find it there; see `place` for where and how often.

    Args:
        again_after: who asks knows how this attempt ended, and asks for the run again all the same.
        say: told what is asked of which placement and what came of it.

    Raises:
        ConfigError: the job's dataset has no snapshot yet.
        ResidencyRefused: the job's dataset may not lie at the active site.
        RunLeftBehind: the run has no place in this epoch and cannot get one.
        TrainingMustWait: a plan is moving the group, or has not said yet what the run resumes from; ask again.
        TrainingGivenUp: another machine would not help, or the group's policy is to fail without one.
        NoMachine: no placement has one now.
    """
    try:
        return _start_run(rooms, group, job, run=run, state=state, again_after=again_after, say=say)
    except EpochUnknownHere as error:
        raise TrainingMustWait(
            "the group failed over and its plan has not said yet what the run goes on from",
            where=f"run {run} at {state.active_site}",
            expected=f"what epoch {state.epoch} forked from",
            found=str(error),
            fix="Ask again once the plan has promoted the site; roll it forward if its runner died",
        ) from error


def without_machine(rooms: Rooms, group: str, run: str, site: str, none: NoRoom, *, epoch: int) -> RecoveryError:
    """What the group's policy makes of there being no machine: `NoMachine`, or `TrainingGivenUp`."""
    policy = rooms.topology.group(group).no_capacity
    asked = "; ".join(f"{describe(placement)}: {said}" for placement, said in none.tried)
    what = "no placement has a machine for the training"
    facts = {
        "where": f"run {run} at {site}, epoch {epoch}",
        "expected": "a machine at one of its placements",
        "found": f"{none.reason}{f' ({asked})' if asked else ''}; {none.counts}",
    }
    if policy is NoCapacityPolicy.FAIL or (policy is NoCapacityPolicy.WAIT and none.ask_again_at is None):
        fix = "Give the job a placement that has one, then `holdfast train resume`"
        return TrainingGivenUp(what, epoch=epoch, attempt=none.attempt, fix=fix, **facts)
    later = None if none.ask_again_at is None else f"It is asked again from {none.ask_again_at:%H:%M:%S} UTC on"
    return NoMachine(what, ask_again_at=none.ask_again_at, policy=policy, fix=later, **facts)


def _start_run(
    rooms: Rooms, group: str, job: str, *, run: str, state: EpochState, again_after: int | None, say: Say
) -> StartedJob:
    settings = rooms.topology.job(job)
    residency = residency_for(rooms.topology, settings.dataset)
    check_hop(settings.dataset, residency, state.active_site, rooms.topology.sites, intent=TRAIN)
    store = rooms.store(state.active_site)
    if (moving := _moving(rooms, state)) is not None:
        attempts = Attempts(store, run, state.epoch, holder=rooms.holder)
        newest = attempts.newest()
        handle = _without_starting(rooms, run, state)
        # An attempt that is only written down has no job yet: what is found then is the one before it.
        if handle is None or (newest is not None and 0 < handle.attempt <= newest.after):
            raise TrainingMustWait(
                f"a {moving.kind} has the group, so no training is started",
                where=f"group {group}",
                expected="no plan under way",
                found=f"plan {moving.plan_id} of {moving.holder}",
                fix="Ask again when it has ended; it resumes the group's training itself",
            )
        data, _ = _goes_on_with(store, run, settings.dataset, state)
        if newest is None:
            return StartedJob(run, state.epoch, state.active_site, data, handle)
        return StartedJob(
            run,
            state.epoch,
            state.active_site,
            data,
            handle,
            newest.attempt,
            newest.placement,
            move_on_at=move_on_at(newest, attempts, now=rooms.clock.now()),
        )
    # First of all: where the data is not promoted yet, nothing of a new run may be written.
    latest(store, settings.dataset, epoch=state.epoch)
    fork_late(rooms, group, job, run, state)
    begin_run(
        store,
        run,
        epoch=state.epoch,
        site=state.active_site,
        plan_id=state.plan_id or "none",
        holder=rooms.holder,
        clock=rooms.clock,
    )
    data, elected = _goes_on_with(store, run, settings.dataset, state)
    wanted = Wanted(group, job, run, state.epoch, state.active_site, data, elected)
    return _started(rooms, wanted, data, place(rooms, wanted, again_after=again_after, say=say))


def _started(rooms: Rooms, wanted: Wanted, data: str, found: Answer) -> StartedJob:
    if isinstance(found, Placed):
        return StartedJob(
            wanted.run,
            wanted.epoch,
            wanted.site,
            data,
            found.handle,
            found.attempt,
            found.placement,
            found.submitted,
            found.move_on_at,
        )
    if isinstance(found, NoRoom):
        raise without_machine(rooms, wanted.group, wanted.run, wanted.site, found, epoch=wanted.epoch)
    raise given_up(wanted, found)


def given_up(wanted: Wanted, found: GivenUp) -> TrainingGivenUp:
    """The one error for a run that no other machine would help."""
    said = f": {found.detail}" if found.detail else ""
    return TrainingGivenUp(
        "the training is not started again by itself",
        epoch=wanted.epoch,
        attempt=found.attempt,
        where=f"run {wanted.run} at {wanted.site}, epoch {wanted.epoch}",
        expected="a job that runs or ends well",
        found=f"attempt {found.attempt} at {describe(found.placement)}{said}; {found.reason}; {found.counts}",
        fix=f"Mend it, then `holdfast train resume {wanted.group} {wanted.job} --run {wanted.run}`",
    )


def _moving(rooms: Rooms, state: EpochState) -> Operation | None:
    """The plan that has the group. A drill is none: it starts training itself, and its plan is refused by the epoch."""
    operation = state.operation
    if operation is None or operation.kind == "drill" or operation.expires_at <= rooms.clock.now():
        return None
    return operation


def _without_starting(rooms: Rooms, run: str, state: EpochState) -> JobHandle | None:
    """The run's job in this epoch, where submitting it would only find it."""
    backend = rooms.backend(state.active_site)
    handle = find_job(backend, state.active_site, run, state.epoch)
    return handle if handle is not None and backend.status(handle).state not in _STARTED_AGAIN else None


def _goes_on_with(store: ObjectStore, run: str, dataset: str, state: EpochState) -> tuple[str, str | None]:
    """The snapshot of a run and the digest of its newest checkpoint: what that was trained on, else the newest."""
    election = elect(store, run, epoch=state.epoch, site=state.active_site)
    if election.manifest is not None and election.manifest.dataset_snapshot is not None:
        return election.manifest.dataset_snapshot, election.digest
    newest = latest(store, dataset, epoch=state.epoch)
    if newest is None:
        raise ConfigError(
            "there is nothing to train on",
            where=f"{store.name}: dataset {dataset}",
            expected="a published snapshot",
            found="none",
            fix="Run the DAG replicate_datasets first",
        )
    return newest.snapshot_id, election.digest
