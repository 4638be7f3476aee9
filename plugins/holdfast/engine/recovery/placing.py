"""Place a run's job at the active site: the next attempt where its history says, and never a second writer.

The sequence, the same for everyone who asks, from Airflow, a plan or the command line:

1. The newest attempt is read from the site's bucket. Is there none, the first is written down.
2. An attempt of which no end is known is submitted, at the placement its record says. Its backend reattaches when it
   runs already, and shows how it ended when it did (`JobSpec.after`): so one that a dead starter only wrote down is
   submitted once, and one that failed is not started again unseen.
3. An end is written down before anything follows it. `next_placement` decides from there, and the next attempt is
   written down create-only: of two starters one decides, the other reads what was decided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from holdfast.engine.compute import ENDED, JobHandle, JobSpec, JobState, JobStatus, job_spec
from holdfast.engine.compute.attempts import (
    AttemptEnd,
    AttemptRecord,
    Attempts,
    PastAttempt,
    following,
    history,
    past,
)
from holdfast.engine.compute.errors import ComputeUnavailable, NoCapacity
from holdfast.engine.compute.placement import ANYWHERE, Counts, Degraded, GiveUp, RunAt, next_placement
from holdfast.engine.config.compute import Placement
from holdfast.engine.recovery.interface import Rooms
from holdfast.engine.recovery.subjects import published_runs

#: After a round without a machine: this long, then twice as long each time.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 900.0
#: For a job that got no machine in time there is nothing to save.
_LEAVE_SECONDS = 5.0
_MOST_LOOKS = 200

Say = Callable[[str], object]


def say_nothing(_: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The run that is to have a job.

    Args:
        dataset_snapshot: what it trains on; None: the newest at the site.
        resume_from: the digest of the checkpoint elected for it; None: it starts anew, or that is not known.
    """

    group: str
    job: str
    run: str
    epoch: int
    site: str
    dataset_snapshot: str | None
    resume_from: str | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """The run has a job.

    Args:
        submitted: this call started it.
        move_on_at: when a job that still waits for a machine is to be asked about again; None: it may wait.
    """

    attempt: int
    placement: Placement
    reason: str
    handle: JobHandle
    submitted: bool
    move_on_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Another machine would not help.

    Args:
        handle: of the last attempt; None: it never had a job.
    """

    attempt: int
    placement: Placement
    reason: str
    detail: str | None
    counts: Counts
    handle: JobHandle | None


@dataclass(frozen=True, slots=True)
class NoRoom:
    """No placement has a machine; the group's policy says what is given up.

    Args:
        attempt: the last one; 0: there is no placement to ask.
        ask_again_at: before this nobody asks; None: asking again does not help.
        tried: the placements that were asked in this round, with what each answered.
    """

    attempt: int
    reason: str
    tried: tuple[tuple[Placement, str], ...]
    counts: Counts
    ask_again_at: datetime | None


Answer = Placed | GivenUp | NoRoom


def place(rooms: Rooms, wanted: Wanted, *, again_after: int | None = None, say: Say = say_nothing) -> Answer:
    """The run's job, started where its placements, its strategy and its history say; or why there is none.

    Args:
        again_after: somebody asks for the run again knowing how this attempt ended, the newest: what was before does
            not count. One that ended well is followed only where the run has no model. An attempt that was stopped on
            request, or took its epoch for over, is followed without it.
        say: told what is asked and what came of it.

    Raises:
        ConfigError, UnknownName: see `job_spec`.
        JobNotStarted, AlreadyRuns, ComputeUnavailable: see `TrainingBackend.submit`; ask again where it is transient.
        AttemptUnreadable, ObjectStoreError: the attempts cannot be read or written.
    """
    placing = _Placing(rooms, wanted, again_after, say)
    for _ in range(_MOST_LOOKS):
        answer = placing.look()
        if answer is not None:
            return answer
    raise ComputeUnavailable(
        "the attempts of this run change faster than this starter can look",
        where=f"run {wanted.run} at {wanted.site}",
        found=f"{_MOST_LOOKS} looks",
        fix="Ask again",
    )


def describe(placement: Placement) -> str:
    """A placement in a few words."""
    machine = placement.machine or "the site's own machine"
    return f"{machine}, spot" if placement.spot else machine


class _Placing:
    """One starter's looks at a run."""

    def __init__(self, rooms: Rooms, wanted: Wanted, again_after: int | None, say: Say) -> None:
        self._rooms, self._wanted, self._again_after, self._say = rooms, wanted, again_after, say
        self._settings = rooms.topology.job(wanted.job)
        self._backend = rooms.backend(wanted.site)
        self._attempts = Attempts(rooms.store(wanted.site), wanted.run, wanted.epoch, holder=rooms.holder)

    def look(self) -> Answer | None:
        """One step further; None: look again."""
        record = self._attempts.newest()
        if record is None:
            return self._first()
        end = self._attempts.end_of(record.attempt)
        if end is None:
            found = self._ask(record)
            if not isinstance(found, AttemptEnd):
                return found
            end = found
        if end.state is JobState.SUCCEEDED and end.job is not None and not self._is_asked_again(record):
            return Placed(record.attempt, record.placement, record.reason, end.job, submitted=False)
        return self._after(record, end)

    def _is_asked_again(self, record: AttemptRecord) -> bool:
        """Whether somebody who knows that the attempt ended well wants another: the run has no model all the same."""
        if self._again_after != record.attempt:
            return False
        store = self._rooms.store(self._wanted.site)
        return self._wanted.run not in published_runs(store, self._settings.model, epoch=self._wanted.epoch)

    def _first(self) -> NoRoom | None:
        """Write the first attempt down; a job from before attempts were written down is taken for it."""
        decision = next_placement(self._settings, self._wanted.site, ())
        if self._backend.find(self._spec(ANYWHERE, 0).name) is not None:
            decision = RunAt(ANYWHERE, "found: it was started before its attempts were written down", Counts.of(()))
        if not isinstance(decision, RunAt):
            return NoRoom(0, decision.reason, (), decision.counts, None)
        self._attempts.write(
            AttemptRecord(
                run=self._wanted.run,
                epoch=self._wanted.epoch,
                site=self._wanted.site,
                attempt=1,
                round=1,
                counted_from=1,
                after=0,
                placement=decision.placement,
                reason=decision.reason,
                holder=self._rooms.holder,
                written_at=self._rooms.clock.now(),
                resume_from=self._wanted.resume_from,
            )
        )
        return None

    def _ask(self, record: AttemptRecord) -> Placed | AttemptEnd | None:
        """Submit an attempt, or find it; its end when it ended, None when something of an older one is in the way."""
        spec = self._spec(record.placement, record.after, record.resume_from)
        known = self._backend.find(spec.name)
        try:
            handle = self._backend.submit(spec)
        except NoCapacity as none:
            self._say(f"attempt {record.attempt}: no machine at {describe(record.placement)}: {none.found or none}")
            return self._end(record, JobState.NO_CAPACITY, none.found or str(none), None)
        if self._attempts.newest() != record:
            return None  # another starter saw this attempt end meanwhile: what was found may be the next one's job
        later = move_on_at(record, self._attempts, now=self._rooms.clock.now())
        if known is None or known.attempt != handle.attempt:
            self._say(f"attempt {record.attempt}: submitted at {describe(record.placement)} ({record.reason})")
            return self._placed(record, handle, later, submitted=True)
        try:
            status = self._backend.status(handle)
        except ComputeUnavailable:
            # "Cannot reach" is not "ended": it is there, and whoever waits for it asks on.
            return self._placed(record, handle, later, submitted=False)
        if status.state in ENDED:
            return self._end(record, *self._how(record, status), handle)
        if status.state is JobState.PENDING and handle.attempt <= record.after:
            # Its wait was given up, and a slower starter made it once more in that moment.
            stopped = self._backend.stop(handle, grace_seconds=_LEAVE_SECONDS)
            return None if stopped.state in ENDED else self._placed(record, handle, later, submitted=False)
        if waits_too_long(status, later, now=self._rooms.clock.now()):
            return self._leave(record, handle, status, later)
        return self._placed(record, handle, later, submitted=False)

    def _leave(
        self, record: AttemptRecord, handle: JobHandle, status: JobStatus, later: datetime | None
    ) -> Placed | AttemptEnd:
        """Stop a job that waited too long for a machine."""
        self._say(
            f"attempt {record.attempt}: no machine at {describe(record.placement)} within "
            f"{record.placement.wait_seconds:g} s: {status.detail or 'no reason is told'}"
        )
        self._attempts.leave(record.attempt)
        stopped = self._backend.stop(handle, grace_seconds=_LEAVE_SECONDS)
        if stopped.state not in ENDED:
            return self._placed(record, handle, later, submitted=False)
        return self._end(record, *self._how(record, stopped, waited_for=status.detail), handle)

    def _after(self, record: AttemptRecord, end: AttemptEnd) -> GivenUp | NoRoom | None:
        """Write down what follows an end, or say why nothing does."""
        # Whoever asks holds this epoch for the current one: what made the job think otherwise is no end of the run.
        if self._again_after == record.attempt or end.state in (JobState.STOPPED, JobState.FENCED):
            return self._again(record, end)
        counted = history(past(record, end), counted_from=record.counted_from, round_now=record.round)
        decision = next_placement(self._settings, self._wanted.site, counted)
        if isinstance(decision, RunAt):
            self._write(record, end, decision.placement, decision.reason)
            return None
        if isinstance(decision, GiveUp):
            return GivenUp(record.attempt, record.placement, decision.reason, end.detail, decision.counts, end.job)
        return self._without_room(record, end, decision)

    def _without_room(self, record: AttemptRecord, end: AttemptEnd, degraded: Degraded) -> NoRoom | None:
        told = past(record, end)
        anew = next_placement(
            self._settings,
            self._wanted.site,
            history(told, counted_from=record.counted_from, round_now=record.round + 1),
        )
        ask_again_at = end.seen_at + timedelta(seconds=pause_seconds(_rounds_without(told, record)))
        if isinstance(anew, RunAt) and self._rooms.clock.now() >= ask_again_at:
            reason = f"no placement had a machine; round {record.round + 1}"
            self._write(record, end, anew.placement, reason, next_round=True)
            return None
        return NoRoom(
            record.attempt,
            degraded.reason,
            tuple((one.placement, one.detail or "no reason is told") for one in _asked(told, record)),
            degraded.counts,
            ask_again_at if isinstance(anew, RunAt) else None,
        )

    def _again(self, record: AttemptRecord, end: AttemptEnd) -> NoRoom | None:
        decision = next_placement(self._settings, self._wanted.site, ())
        if not isinstance(decision, RunAt):
            return NoRoom(record.attempt, decision.reason, (), decision.counts, None)
        reason = f"asked for again after attempt {record.attempt} ended as {end.state}"
        self._write(record, end, decision.placement, reason, again=True)
        return None

    def _write(
        self,
        record: AttemptRecord,
        end: AttemptEnd,
        placement: Placement,
        reason: str,
        *,
        again: bool = False,
        next_round: bool = False,
    ) -> None:
        self._attempts.write(
            following(
                record,
                end,
                placement=placement,
                reason=reason,
                holder=self._rooms.holder,
                at=self._rooms.clock.now(),
                again=again,
                next_round=next_round,
                resume_from=self._wanted.resume_from,
            )
        )

    def _end(self, record: AttemptRecord, state: JobState, detail: str | None, handle: JobHandle | None) -> AttemptEnd:
        if handle is not None:
            self._say(f"attempt {record.attempt}: {state} at {describe(record.placement)}{_because(detail)}")
        return self._attempts.write_end(record, state, detail, handle, at=self._rooms.clock.now())

    def _how(
        self, record: AttemptRecord, status: JobStatus, *, waited_for: str | None = None
    ) -> tuple[JobState, str | None]:
        """How an attempt ended: one that we stopped because it got no machine in time found no room, or was lost."""
        stopped = status.state in (JobState.STOPPED, JobState.LOST)
        if not stopped or record.placement.wait_seconds is None or not self._attempts.was_left(record.attempt):
            return status.state, status.detail
        waited = f"no machine within {record.placement.wait_seconds:g} s"
        if status.heartbeat_at is None:
            return JobState.NO_CAPACITY, f"{waited}: {waited_for or status.detail or 'no reason is told'}"
        return JobState.LOST, f"{waited}; it began as it was asked to leave"

    def _placed(self, record: AttemptRecord, handle: JobHandle, later: datetime | None, *, submitted: bool) -> Placed:
        return Placed(record.attempt, record.placement, record.reason, handle, submitted, later)

    def _spec(self, placement: Placement, after: int, resume_from: str | None = None) -> JobSpec:
        wanted = self._wanted
        return job_spec(
            self._rooms.topology,
            wanted.group,
            wanted.job,
            run=wanted.run,
            epoch=wanted.epoch,
            site=wanted.site,
            dataset_snapshot=wanted.dataset_snapshot,
            environ=self._rooms.environ,
            placement=placement,
            after=after,
            resume_from=resume_from,
        )


def pause_seconds(rounds: int) -> float:
    """How long nobody asks after so many rounds in a row in which no placement had a machine."""
    return float(min(FIRST_PAUSE_SECONDS * 2 ** min(rounds - 1, 16), LONGEST_PAUSE_SECONDS))


def _rounds_without(told: tuple[PastAttempt, ...], record: AttemptRecord) -> int:
    """The rounds without a machine since one ran, or since the run was asked for."""
    ran = (one.round for one in told if one.attempt >= record.counted_from and one.state is not JobState.NO_CAPACITY)
    return record.round - max(ran, default=1) + 1


def move_on_at(record: AttemptRecord, attempts: Attempts, *, now: datetime) -> datetime | None:
    """When a job that its service has taken has waited long enough for a machine; None: it may wait.

    Where nobody wrote down since when it waits, it counts from now on. Raises as `Attempts.newest`.
    """
    seconds = record.placement.wait_seconds
    return None if seconds is None else attempts.submitted(record.attempt, at=now) + timedelta(seconds=seconds)


def waits_too_long(status: JobStatus, at: datetime | None, *, now: datetime) -> bool:
    """Whether a job has waited for its first machine as long as its placement allows.

    One with a heartbeat had a machine, and waits for another: it is left where its service has its place in the queue.

    Args:
        at: see `move_on_at`.
    """
    return status.state is JobState.PENDING and status.heartbeat_at is None and at is not None and now >= at


def _asked(told: tuple[PastAttempt, ...], record: AttemptRecord) -> list[PastAttempt]:
    """The attempts of this round that found no machine."""
    return [one for one in told if one.state is JobState.NO_CAPACITY and one.round == record.round]


def _because(detail: str | None) -> str:
    return f": {detail}" if detail else ""
