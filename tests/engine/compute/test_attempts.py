"""The records of attempts: byte for byte, one per number, and short however long there was no machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.engine.compute import JobHandle, JobState
from holdfast.engine.compute.attempts import (
    AttemptEnd,
    AttemptRecord,
    Attempts,
    AttemptSubmitted,
    AttemptUnreadable,
    following,
    history,
    past,
)
from holdfast.engine.config.compute import Placement
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.interface import OVERWRITE

GOLDEN = Path(__file__).parents[2] / "golden" / "attempts"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SPOT, STAYS = Placement(machine="small", spot=True, price_per_hour=0.4), Placement(machine="small")


def first(**changes: object) -> AttemptRecord:
    facts = {
        "run": "desk-job",
        "epoch": 2,
        "site": "site-a",
        "attempt": 1,
        "round": 1,
        "counted_from": 1,
        "after": 0,
        "placement": SPOT,
        "reason": "the first attempt",
        "holder": "worker-1",
        "written_at": NOON,
        "resume_from": f"blake3:{'ab' * 32}",
    }
    return AttemptRecord.model_validate({**facts, **changes})


def end(record: AttemptRecord, state: JobState, *, job: int | None = None) -> AttemptEnd:
    handle = None
    if job is not None:
        handle = {"backend": "process", "site": "site-a", "name": "desk-job.e2", "reference": {"attempt": job}}
    return AttemptEnd(
        run="desk-job",
        epoch=2,
        attempt=record.attempt,
        state=state,
        detail="why",
        handle=handle,
        holder="worker-1",
        seen_at=NOON,
    )


def after(record: AttemptRecord, state: JobState, *, job: int | None = None, **more: bool) -> AttemptRecord:
    facts = {"placement": STAYS, "reason": "next", "holder": "worker-2", "at": NOON}
    return following(record, end(record, state, job=job), **facts, **more)  # type: ignore[arg-type]


GOLDENS = {
    "000002.000001.json": first(),
    "000002.000001.submitted": AttemptSubmitted(
        run="desk-job", epoch=2, attempt=1, holder="worker-1", submitted_at=NOON
    ),
    "000002.000001.end.json": end(first(), JobState.PREEMPTED, job=1),
    "000002.000002.json": after(first(), JobState.PREEMPTED, job=1),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_a_golden_file_is_read_and_written_byte_for_byte(name: str) -> None:
    data, record = (GOLDEN / name).read_bytes(), GOLDENS[name]
    assert type(record).model_validate_json(data) == record
    assert record.to_json() == data


def test_a_record_from_before_the_elected_checkpoint_was_told_is_read() -> None:
    document = json.loads(first().to_json())
    del document["resume_from"]
    assert AttemptRecord.model_validate(document) == first(resume_from=None)


def test_of_two_writers_of_a_number_the_first_one_stands() -> None:
    store = memory_store("site-a")
    mine = Attempts(store, "desk-job", 2, holder="worker-1")
    assert mine.newest() is None
    assert mine.write(first()) == first()
    assert mine.write(first(placement=STAYS)) == first()
    handle = JobHandle("process", "site-a", "desk-job.e2", {"attempt": 1})
    stands = mine.write_end(first(), JobState.LOST, None, handle, at=NOON)
    assert mine.write_end(first(), JobState.PREEMPTED, None, None, at=NOON) == stands
    assert (stands.state, stands.job) == (JobState.LOST, handle)
    assert mine.newest() == first()
    assert Attempts(store, "desk-job", 3, holder="worker-1").newest() is None
    mine.leave(1)
    assert (mine.was_left(1), mine.was_left(2), mine.newest()) == (True, False, first())


@pytest.mark.parametrize("data", [b"", b"{}", b'{"format": "holdfast.attempt/1", "more": 1}'])
def test_a_record_that_cannot_be_read_is_named(data: bytes) -> None:
    store = memory_store("site-a")
    kept = Attempts(store, "desk-job", 2, holder="worker-1")
    store.put("runs/desk-job/attempts/000002.000001.json", data, mode=OVERWRITE)
    store.put("runs/desk-job/attempts/000002.000001.end.json", data, mode=OVERWRITE)
    for read in (kept.newest, lambda: kept.end_of(1)):
        with pytest.raises(AttemptUnreadable, match=r"desk-job/attempts/000002\.000001"):
            read()


def test_the_backends_number_follows_the_job_and_not_an_attempt_without_one() -> None:
    lost = after(first(), JobState.LOST, job=4)
    assert lost.after == 4
    assert after(lost, JobState.NO_CAPACITY).after == 4
    assert after(lost, JobState.LOST, job=2).after == 4


def test_a_long_want_of_machines_leaves_a_short_record() -> None:
    record = after(first(), JobState.PREEMPTED, job=1)
    for _ in range(1000):
        record = after(record, JobState.NO_CAPACITY, next_round=True)
    assert (record.attempt, record.round, record.left_out) == (1002, 1001, 1000)
    assert [one.state for one in record.before] == [JobState.PREEMPTED]


def test_what_was_before_somebody_asked_again_is_told_and_does_not_count() -> None:
    record = first()
    for number in range(1, 61):
        record = after(record, JobState.FAILED, job=number, again=True)
    told = past(record, end(record, JobState.LOST, job=61))
    assert len(record.before) == 50
    assert [one.state for one in history(told, counted_from=record.counted_from, round_now=1)] == [JobState.LOST]


def test_the_failures_of_a_run_are_its_lost_machines_since_its_first_attempt() -> None:
    kept = Attempts(memory_store("site-a"), "desk-job", 2, holder="worker-1")
    now = NOON + timedelta(hours=3)
    assert kept.failures(now=now) == (0, 0.0)
    record = kept.write(first())
    assert kept.failures(now=now) == (0, 3 * 3600.0)
    for state in (JobState.PREEMPTED, JobState.NO_CAPACITY, JobState.LOST):
        record = kept.write(after(record, state, job=record.attempt).model_copy(update={"written_at": now}))
    assert kept.failures(now=now) == (2, 3 * 3600.0), "without a machine nothing failed"
