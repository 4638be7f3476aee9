"""Step records: what a plan did, when and with what result, in the buckets a dead source cannot take away.

A finished step's record is created once per bucket and never changed, so whoever resumes the plan, from Airflow or
from the command line, finds where it stands. A step that failed leaves an attempt and may be begun again.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import CREATE, ObjectStore
from holdfast.engine.recovery.errors import RecordsUnavailable

StepStatus = Literal["done", "failed"]


def host_boot() -> str:
    """Names this host's clock: monotonic times with the same name may be subtracted from one another."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"unknown-{uuid.getnode():012x}"


class StepRecord(BaseModel):
    """One finished or failed step.

    ``seconds`` is measured on the monotonic clock. ``monotonic_end`` and ``boot`` let another process on the same
    host compute durations between steps; across hosts only the wall clock remains.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["holdfast.step/1"] = "holdfast.step/1"
    plan_id: str
    epoch: int
    step: str
    status: StepStatus
    started_at: datetime
    ended_at: datetime
    seconds: float = Field(ge=0)
    monotonic_end: float
    boot: str
    runner: str
    write_id: str
    evidence: dict[str, Any] = {}
    error: dict[str, str | None] | None = None


class StepLog:
    """The step records of one plan (or drill) in several buckets.

    Args:
        stores: by site; the first is asked first.
        folder: where the records lie.
        pool: threads for asking several buckets at once.
    """

    def __init__(self, stores: Sequence[ObjectStore], folder: str, pool: ThreadPoolExecutor) -> None:
        self._stores = tuple(stores)
        self._folder = folder
        self._pool = pool

    def key(self, step: str) -> str:
        return f"{self._folder}/{step}.json"

    def read(self, step: str) -> StepRecord | None:
        """The record of a finished step, from the first bucket in order that has it.

        Raises:
            RecordsUnavailable: no bucket answered.
        """
        answers = [self._pool.submit(_get, store, self.key(step)) for store in self._stores]
        return self._first(step, answers)

    def read_all(self, steps: Sequence[str]) -> dict[str, StepRecord]:
        """The records of all finished steps among these, asked for at once."""
        asked = {step: [self._pool.submit(_get, s, self.key(step)) for s in self._stores] for step in steps}
        found = {step: self._first(step, answers) for step, answers in asked.items()}
        return {step: record for step, record in found.items() if record is not None}

    def _first(self, step: str, answers: Sequence[Future[bytes | None]]) -> StepRecord | None:
        silent = []
        for answer in answers:
            try:
                data = answer.result()
            except ObjectStoreError as error:
                silent.append(str(error))
                continue
            if data is not None:
                return StepRecord.model_validate_json(data)
        if len(silent) == len(self._stores):
            raise RecordsUnavailable(
                "no bucket answered for the plan's records",
                where=self.key(step),
                found="; ".join(silent),
                fix="Bring one of them back, then resume the plan",
            )
        return None

    def write(self, record: StepRecord) -> StepRecord:
        """Create the record in every bucket; at least one must take it. A failed step becomes an attempt.

        Returns the record that counts: when another runner finished the step first, its record.

        Raises:
            RecordsUnavailable: no bucket took it.
        """
        key = self.key(record.step)
        if record.status == "failed":
            key = f"{self._folder}/attempts/{record.step}.{record.write_id}.json"
        data = record.model_dump_json().encode()
        writes = [self._pool.submit(_create, store, key, data) for store in self._stores]
        silent = []
        for write in writes:
            try:
                # The first that took it counts. The others go on by themselves: one that hangs holds nobody up.
                return StepRecord.model_validate_json(write.result())
            except ObjectStoreError as error:
                silent.append(str(error))
        raise RecordsUnavailable(
            "no bucket took the step's record",
            where=key,
            found="; ".join(silent),
            fix="Bring one of them back, then resume the plan: the step is idempotent",
        )


def _get(store: ObjectStore, key: str) -> bytes | None:
    try:
        return store.get(key)
    except ObjectNotFound:
        return None


def _create(store: ObjectStore, key: str, data: bytes) -> bytes:
    """The bytes that are there afterwards: ours, or those of the one who was first."""
    try:
        store.put(key, data, mode=CREATE, content_type="application/json")
    except ObjectExists:
        return store.get(key)
    return data
