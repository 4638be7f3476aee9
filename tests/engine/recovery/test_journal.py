"""Step records: the first one counts, one bucket is enough, and one that hangs holds nobody up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast.engine.objectstore import memory_store
from holdfast.engine.recovery import RecordsUnavailable, StepLog, StepRecord
from world import AZURE, GCP, CutStore, Switchboard

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(write_id: str, status: Any = "done") -> StepRecord:
    return StepRecord(
        plan_id="p", epoch=2, step="fence", status=status, started_at=NOW, ended_at=NOW, seconds=1.0, monotonic_end=1.0,
        boot="b", runner="r", write_id=write_id,
    )  # fmt: skip


@pytest.fixture
def board() -> Switchboard:
    return Switchboard()


@pytest.fixture
def log(board: Switchboard) -> Iterator[StepLog]:
    with ThreadPoolExecutor(4) as pool:
        yield StepLog([CutStore(s, board, memory_store(s)) for s in (GCP, AZURE)], "plans/g/p/000002", pool)  # type: ignore[misc]  # a duck-typed store


def test_of_two_runners_the_first_record_counts(log: StepLog) -> None:
    assert log.write(record("first")).write_id == "first"
    assert log.write(record("second")).write_id == "first"
    found = log.read("fence")
    assert found is not None
    assert found.write_id == "first"


def test_a_failed_attempt_does_not_take_the_steps_place(log: StepLog) -> None:
    log.write(record("attempt", "failed"))
    assert log.read("fence") is None
    assert log.write(record("done")).write_id == "done"


def test_one_bucket_is_enough_and_none_is_not(log: StepLog, board: Switchboard) -> None:
    board.cut.add(GCP)
    assert log.write(record("a")).write_id == "a"
    assert log.read("fence") is not None
    board.cut.add(AZURE)
    with pytest.raises(RecordsUnavailable):
        log.write(record("b"))
    with pytest.raises(RecordsUnavailable):
        log.read("fence")


def test_a_bucket_that_hangs_holds_nobody_up() -> None:
    hanging = threading.Event()

    class Hanging:
        name = "hanging"

        def put(self, *args: Any, **kwargs: Any) -> None:
            assert hanging.wait(30)

    with ThreadPoolExecutor(4) as pool:
        log = StepLog([memory_store(), Hanging()], "plans/g/p/000002", pool)  # type: ignore[list-item]  # only its put is used
        try:
            assert log.write(record("a")).write_id == "a"
        finally:
            hanging.set()
