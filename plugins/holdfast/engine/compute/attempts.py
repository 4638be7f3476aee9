"""The attempts of a run in an epoch, in the bucket of its site: where each was asked for, and what became of it.

They outlive whoever started them, Airflow included. docs/formats/attempts.md specifies the documents::

    runs/<run>/attempts/<epoch:6>.<attempt:6>.json        create-only, before the job is submitted
    runs/<run>/attempts/<epoch:6>.<attempt:6>.submitted   create-only, once its service took a job that may not wait
    runs/<run>/attempts/<epoch:6>.<attempt:6>.left        its wait for a machine was given up; empty
    runs/<run>/attempts/<epoch:6>.<attempt:6>.end.json    create-only, once its backend said how it ended

Of two starters one creates the next attempt and the other reads what it says: an attempt has one placement.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from holdfast.engine.compute.interface import ComputeError, JobHandle, JobState
from holdfast.engine.compute.recovery_strategies import Attempt
from holdfast.engine.config.compute import Placement
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.documents import Document, UtcTime
from holdfast.engine.snapshot.once import create_or_read

_NUMBER = re.compile(r"(\d{6,})\.json")
#: Attempts that no longer count are told for people; so many of them.
_MOST_TOLD = 50

_Record = TypeVar("_Record", bound=Document)


class AttemptUnreadable(ComputeError):
    """An attempt's record is damaged, or of a later version; nothing is started on what it may say."""


class PastAttempt(Document):
    """One attempt that ended."""

    attempt: int = Field(ge=1)
    round: int = Field(ge=1)
    placement: Placement
    reason: str
    state: JobState
    detail: str | None


class AttemptRecord(Document):
    """One attempt, written before it is submitted.

    ``round`` is how often the placements were gone through for want of a machine. Attempts below ``counted_from`` do
    not count any more: somebody asked for the run again. ``after`` is the backend's own number of the newest attempt
    that had ended (`JobSpec.after`). ``resume_from`` is the digest of the checkpoint elected for it. ``before`` are
    the attempts before it, oldest first; of those that found no machine only this round's, ``left_out`` counts the
    rest.
    """

    format: Literal["holdfast.attempt/1"] = "holdfast.attempt/1"
    run: str
    epoch: int = Field(ge=1)
    site: str
    attempt: int = Field(ge=1)
    round: int = Field(ge=1)
    counted_from: int = Field(ge=1)
    after: int = Field(ge=0)
    placement: Placement
    reason: str
    holder: str
    written_at: UtcTime
    resume_from: str | None = None
    before: tuple[PastAttempt, ...] = ()
    left_out: int = Field(0, ge=0)


class AttemptEnd(Document):
    """How an attempt ended, by its backend's word. The first who saw it wrote it, and it stands."""

    format: Literal["holdfast.attempt-end/1"] = "holdfast.attempt-end/1"
    run: str
    epoch: int = Field(ge=1)
    attempt: int = Field(ge=1)
    state: JobState
    detail: str | None
    handle: dict[str, str | int | float | dict[str, str | int | float]] | None = Field(
        description="The job's handle; none: the service had no machine, and nothing was started."
    )
    holder: str
    seen_at: UtcTime

    @property
    def job(self) -> JobHandle | None:
        if self.handle is None:
            return None
        reference = self.handle["reference"]
        assert isinstance(reference, dict)
        return JobHandle(str(self.handle["backend"]), str(self.handle["site"]), str(self.handle["name"]), reference)


class AttemptSubmitted(Document):
    """When the service took an attempt's job: from then on it waits for its machine."""

    format: Literal["holdfast.attempt-submitted/1"] = "holdfast.attempt-submitted/1"
    run: str
    epoch: int = Field(ge=1)
    attempt: int = Field(ge=1)
    holder: str
    submitted_at: UtcTime


class Attempts:
    """The attempts of one run in one epoch.

    Args:
        store: the bucket of the site that is active in the epoch.
        holder: who writes.
    """

    def __init__(self, store: ObjectStore, run: str, epoch: int, *, holder: str) -> None:
        self._store, self._run, self._epoch, self._holder = store, run, epoch, holder
        self._prefix = f"runs/{run}/attempts/{epoch:06d}."

    def newest(self) -> AttemptRecord | None:
        """The newest attempt anybody wrote down; None: there is none.

        Raises:
            AttemptUnreadable: its record is damaged.
            ObjectStoreError: the bucket does not answer.
        """
        names = (one.key.removeprefix(self._prefix) for one in self._store.list(self._prefix))
        found = (_NUMBER.fullmatch(name) for name in names)
        number = max((int(one[1]) for one in found if one is not None), default=0)
        if number == 0:
            return None
        key = self._key(number)
        return _parse(AttemptRecord, key, self._store.get(key))

    def failures(self, *, now: datetime) -> tuple[int, float]:
        """Machines lost under the run in this epoch so far, and the seconds since its first attempt.

        Raises:
            AttemptUnreadable, ObjectStoreError: as `newest`.
        """
        record = self.newest()
        if record is None:
            return 0, 0.0
        key = self._key(1)
        first = _parse(AttemptRecord, key, self._store.get(key)) if record.attempt > 1 else record
        lost = sum(one.state in (JobState.LOST, JobState.PREEMPTED) for one in record.before)
        return lost, max(0.0, (now - first.written_at).total_seconds())

    def end_of(self, attempt: int) -> AttemptEnd | None:
        """How an attempt ended; None: nobody saw it end. Raises AttemptUnreadable, ObjectStoreError."""
        key = self._key(attempt, ".end.json")
        try:
            return _parse(AttemptEnd, key, self._store.get(key))
        except ObjectNotFound:
            return None

    def write(self, record: AttemptRecord) -> AttemptRecord:
        """Write the next attempt down, or learn which one stands. Raises as `newest`."""
        key = self._key(record.attempt)
        return _parse(AttemptRecord, key, create_or_read(self._store, key, record.to_json(), content_type=_JSON))

    def write_end(
        self, record: AttemptRecord, state: JobState, detail: str | None, handle: JobHandle | None, *, at: datetime
    ) -> AttemptEnd:
        """Say how an attempt ended, or learn what was said first. Raises as `newest`."""
        key = self._key(record.attempt, ".end.json")
        end = AttemptEnd(
            run=self._run,
            epoch=self._epoch,
            attempt=record.attempt,
            state=state,
            detail=detail,
            handle=None if handle is None else handle_document(handle),
            holder=self._holder,
            seen_at=at,
        )
        return _parse(AttemptEnd, key, create_or_read(self._store, key, end.to_json(), content_type=_JSON))

    def submitted(self, attempt: int, *, at: datetime) -> datetime:
        """Say when an attempt was submitted, or learn what was said first. Raises as `newest`."""
        key = self._key(attempt, ".submitted")
        said = AttemptSubmitted(run=self._run, epoch=self._epoch, attempt=attempt, holder=self._holder, submitted_at=at)
        stands = create_or_read(self._store, key, said.to_json(), content_type=_JSON)
        return _parse(AttemptSubmitted, key, stands).submitted_at

    def leave(self, attempt: int) -> None:
        """Say that the wait of an attempt for a machine is given up, before its job is stopped."""
        create_or_read(self._store, self._key(attempt, ".left"), b"")

    def was_left(self, attempt: int) -> bool:
        try:
            self._store.head(self._key(attempt, ".left"))
        except ObjectNotFound:
            return False
        return True

    def _key(self, attempt: int, ending: str = ".json") -> str:
        return f"{self._prefix}{attempt:06d}{ending}"


_JSON = "application/json"


def handle_document(handle: JobHandle) -> dict[str, str | int | float | dict[str, str | int | float]]:
    """A handle as JSON has it."""
    return {
        "backend": handle.backend,
        "site": handle.site,
        "name": handle.name,
        "reference": dict(handle.reference),
    }


def past(record: AttemptRecord, end: AttemptEnd) -> tuple[PastAttempt, ...]:
    """The attempts up to one that ended, oldest first."""
    ended = PastAttempt(
        attempt=record.attempt,
        round=record.round,
        placement=record.placement,
        reason=record.reason,
        state=end.state,
        detail=end.detail,
    )
    return (*record.before, ended)


def history(attempts: tuple[PastAttempt, ...], *, counted_from: int, round_now: int) -> list[Attempt]:
    """What `next_placement` goes by: the attempts that count, without those that found no machine in earlier rounds."""
    return [
        Attempt(one.placement, one.state)
        for one in attempts
        if one.attempt >= counted_from and (one.state is not JobState.NO_CAPACITY or one.round == round_now)
    ]


def following(
    record: AttemptRecord,
    end: AttemptEnd,
    *,
    placement: Placement,
    reason: str,
    holder: str,
    at: datetime,
    again: bool = False,
    next_round: bool = False,
    resume_from: str | None = None,
) -> AttemptRecord:
    """The attempt after one that ended.

    Args:
        again: somebody asked for the run again: what was before does not count any more.
        next_round: the placements are gone through once more.
        resume_from: the digest of the checkpoint elected now; None: it starts anew, or that is not known.
    """
    number = record.attempt + 1
    round_now = 1 if again else record.round + (1 if next_round else 0)
    counted_from = number if again else record.counted_from
    told = past(record, end)
    kept = [one for one in told if not _is_over(one, counted_from, round_now)]
    spent = [one for one in kept if one.attempt < counted_from]
    kept = [*spent[-_MOST_TOLD:], *(one for one in kept if one.attempt >= counted_from)]
    return AttemptRecord(
        run=record.run,
        epoch=record.epoch,
        site=record.site,
        attempt=number,
        round=round_now,
        counted_from=counted_from,
        # Nothing was started where the service had no machine: the job before it is still the newest that ended.
        after=record.after if end.job is None else max(record.after, end.job.attempt),
        placement=placement,
        reason=reason,
        holder=holder,
        written_at=at,
        resume_from=resume_from,
        before=tuple(kept),
        left_out=record.left_out + len(told) - len(kept),
    )


def _is_over(one: PastAttempt, counted_from: int, round_now: int) -> bool:
    """Whether an attempt only says that there was no machine once."""
    earlier = one.attempt < counted_from or one.round < round_now
    return one.state is JobState.NO_CAPACITY and earlier


def _parse(kind: type[_Record], key: str, data: bytes) -> _Record:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise AttemptUnreadable(
            "the record of an attempt is not readable",
            where=key,
            expected=str(kind.model_fields["format"].default),
            found=f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
            fix="Remove it when it is damaged: the job itself is found by its name",
        ) from None
