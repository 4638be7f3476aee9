"""Where a drill stands: one record per finished phase, in buckets that the fault cannot take away.

Each phase can so run in a process of its own, with nothing but the drill's id.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from holdfast.engine.drill.errors import DrillNotFound
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.recovery.anywhere import find_anywhere
from holdfast.engine.recovery.interface import Evidence, Progress, ProgressSink, Rooms, Senses, ignore_progress
from holdfast.engine.recovery.journal import StepLog, StepRecord, host_boot
from holdfast.engine.recovery.plan import Plan
from holdfast.engine.recovery.senses import RealSenses
from holdfast.errors import HoldfastError

PHASES = (
    "prepare",
    "arm",
    "inject",
    "detect",
    "fail_over",
    "resume_training",
    "lift",
    "measure_loss",
    "attempt_stale_writes",
    "await_training",
    "reprotect",
    "compare_model",
    "steady_state_after",
)


def drill_folder(drill_id: str) -> str:
    return f"evidence/{drill_id}"


@dataclass
class DrillState:
    """A drill in progress, as its records tell it."""

    rooms: Rooms
    drill_id: str
    plan: Plan
    scenario: str
    senses: Senses = field(default_factory=RealSenses)
    progress: ProgressSink = ignore_progress
    records: dict[str, StepRecord] = field(default_factory=dict)

    def evidence(self, phase: str) -> Evidence:
        """What a phase found; empty when it is not recorded."""
        record = self.records.get(phase)
        return record.evidence if record else {}

    def once(self, phase: str, work: Callable[[], Evidence]) -> Evidence:
        """Run a phase unless it is recorded, and record it."""
        if phase in self.records:
            return self.records[phase].evidence
        return self.run(phase, work)

    def run(self, phase: str, work: Callable[[], Evidence]) -> Evidence:
        """Run a phase and record it; a failure is recorded as an attempt and raised."""
        clock = self.rooms.clock
        self.progress(Progress(phase, "begun"))
        started_at, started = clock.now(), clock.monotonic()
        evidence: Evidence = {}
        failure: HoldfastError | None = None
        try:
            evidence = work()
        except HoldfastError as error:
            failure, evidence = error, getattr(error, "evidence", {})
        ended = clock.monotonic()
        record = StepRecord(
            plan_id=self.drill_id,
            epoch=self.plan.epoch,
            step=phase,
            status="failed" if failure else "done",
            started_at=started_at,
            ended_at=clock.now(),
            seconds=max(0.0, ended - started),
            monotonic_end=ended,
            boot=host_boot(),
            runner=self.rooms.holder,
            write_id=uuid.uuid4().hex,
            evidence=evidence,
            error=failure.as_dict() if failure else None,
        )
        with ThreadPoolExecutor(4, "drill-records") as pool:
            counting = self._log(pool).write(record)
        if failure is not None:
            self.progress(Progress(phase, "failed", record.seconds, str(failure)))
            raise failure
        self.records[phase] = counting
        self.progress(Progress(phase, "done", record.seconds))
        return counting.evidence

    def refresh(self) -> None:
        """Read all records again."""
        with ThreadPoolExecutor(8, "drill-records") as pool:
            self.records = self._log(pool).read_all(PHASES)

    def failures(self) -> list[StepRecord]:
        """The failed attempts of this drill's phases, oldest first, as far as the buckets answer."""
        found: dict[str, StepRecord] = {}
        for site in self.plan.record_sites:
            store = self.rooms.store(site)
            try:
                for info in store.list(f"{drill_folder(self.drill_id)}/phases/attempts/"):
                    record = StepRecord.model_validate_json(store.get(info.key))
                    found[record.write_id] = record
            except ObjectStoreError:
                continue
        return sorted(found.values(), key=lambda r: r.started_at)

    def _log(self, pool: ThreadPoolExecutor) -> StepLog:
        stores = [self.rooms.store(s) for s in self.plan.record_sites]
        return StepLog(stores, f"{drill_folder(self.drill_id)}/phases", pool)


def open_drill(
    rooms: Rooms, drill_id: str, *, senses: Senses | None = None, progress: ProgressSink = ignore_progress
) -> DrillState:
    """A drill that was prepared, from its id alone.

    Raises:
        DrillNotFound: no site that answers has it.
    """
    key = f"{drill_folder(drill_id)}/phases/prepare.json"
    found = find_anywhere(rooms, list(rooms.topology.sites), key)
    if found.data is None:
        missing = DrillNotFound(
            "there is no such drill",
            where="every site that answers",
            expected="a drill id",
            found=drill_id,
            fix=f"Not asked: {'; '.join(found.silent)}" if found.silent else None,
        )
        missing.silent_sites = len(found.silent)
        raise missing
    prepared = json.loads(found.data)["evidence"]
    state = DrillState(
        rooms, drill_id, Plan.model_validate(prepared["plan"]), prepared["scenario"], senses or RealSenses(), progress
    )
    state.refresh()
    return state
