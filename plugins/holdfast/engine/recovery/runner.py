"""Runs a plan: each step gated, recorded, and skipped when its record is there.

Idempotent on (plan, epoch, step): whoever calls it again, after a crash or at the same time from elsewhere, gets
the same end. Before the epoch is committed it stops at the first error and nothing has changed; after it, calling
it again rolls forward.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from holdfast.engine.authority.interface import EpochState, Operation, OperationInProgress
from holdfast.engine.recovery.abort import check_not_aborted
from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.errors import GateClosed, PlanSuperseded
from holdfast.engine.recovery.interface import Evidence, ProgressSink, Rooms, Senses, ignore_progress
from holdfast.engine.recovery.journal import StepLog, StepRecord, host_boot
from holdfast.engine.recovery.plan import Plan, plan_folder, save_plan
from holdfast.engine.recovery.senses import RealSenses
from holdfast.engine.recovery.steps import STEP_BY_NAME
from holdfast.errors import HoldfastError, UnknownName

#: A claim nobody renews ends after this long; epochs, not claims, keep the group safe.
CLAIM_SECONDS = {"failover": 600.0, "switchover": 600.0, "failback": 600.0, "drill": 1800.0}
#: Their records are in the buckets before the next step begins; later ones are written while it runs.
_RECORDED_FIRST = frozenset({"detect", "decide", "quiesce"})


@dataclass(frozen=True)
class PlanResult:
    """The records of the steps that were asked for, in order."""

    plan: Plan
    records: tuple[StepRecord, ...]

    @property
    def complete(self) -> bool:
        """True when every step of the plan is recorded."""
        return {r.step for r in self.records} == set(self.plan.steps)

    def record(self, step: str) -> StepRecord | None:
        return next((r for r in self.records if r.step == step), None)


def run_plan(
    rooms: Rooms,
    plan: Plan,
    *,
    only: Collection[str] | None = None,
    approved_by: str | None = None,
    progress: ProgressSink = ignore_progress,
    senses: Senses | None = None,
    keep_claim: bool = False,
) -> PlanResult:
    """Run a plan's steps, or some of them, from wherever it stands.

    Args:
        only: the steps to run now; those before them must be recorded. None: all.
        approved_by: who approved it; recorded by the step ``decide``.
        progress: told when a step begins and ends.
        senses: how to look at services and sites; by default the real ones.
        keep_claim: leave the group taken at the end; a drill frees it itself.

    Raises:
        OperationInProgress: another plan or drill has the group; nothing was changed.
        NeedsHuman: the rules want a person's approval; nothing was changed.
        PlanSuperseded: another plan moved the group on.
        HoldfastError: a step failed; run the plan again to go on.
    """
    unknown = set(only or ()) - set(plan.steps)
    if unknown:
        raise UnknownName(
            "unknown step",
            where=f"plan {plan.plan_id}",
            expected=f"some of {', '.join(plan.steps)}",
            found=", ".join(sorted(unknown)),
        )
    wanted = [s for s in plan.steps if only is None or s in only]
    with ThreadPoolExecutor(8, "plan-records") as record_pool, ThreadPoolExecutor(16, "plan") as pool:
        log = StepLog([rooms.store(s) for s in plan.record_sites], records_folder(plan), record_pool)
        context = StepContext(
            rooms, plan, senses or RealSenses(), pool, progress, log.read_all(plan.steps), approved_by
        )
        run = _Run(context, log, record_pool, keep_claim)
        try:
            if any(step not in context.records for step in wanted):
                run.steps(wanted)
            elif plan.steps[-1] in context.records:
                run.release()  # whoever finished it may have died before freeing the group
        finally:
            context.given_up.set()
        return PlanResult(plan, tuple(context.records[s] for s in plan.steps if s in context.records))


def records_folder(plan: Plan) -> str:
    """Where the records of a plan's steps lie in a bucket."""
    return f"{plan_folder(plan.group, plan.plan_id)}/{plan.epoch:06d}"


def read_records(rooms: Rooms, plan: Plan) -> dict[str, StepRecord]:
    """The records of a plan's finished steps, by step."""
    with ThreadPoolExecutor(8, "plan-records") as pool:
        stores = [rooms.store(s) for s in plan.record_sites]
        return StepLog(stores, records_folder(plan), pool).read_all(plan.steps)


class _Run:
    """One process's run of some steps of one plan."""

    def __init__(self, context: StepContext, log: StepLog, pool: ThreadPoolExecutor, keep_claim: bool) -> None:
        self._keep_claim = keep_claim
        self._context = context
        self._plan = context.plan
        self._clock = context.rooms.clock
        self._authority = context.rooms.authority(context.plan.group)
        self._log = log
        self._pool = pool
        self._boot = host_boot()
        self._writing: Future[StepRecord] | None = None

    def steps(self, wanted: list[str]) -> None:
        self._enter()
        try:
            for name in wanted:
                if name not in self._context.records:
                    self._step(name)
            self._settle()
        except HoldfastError:
            self._leave_if_uncommitted()
            raise
        if self._plan.steps[-1] in self._context.records:
            self.release()

    def _enter(self) -> None:
        """Take the group, see that the plan still is to be run, and write it down."""
        state = self._claim()
        committed = (state.epoch, state.plan_id) == (self._plan.epoch, self._plan.plan_id)
        if not committed and state.epoch != self._plan.expected_epoch:
            self.release()
            raise PlanSuperseded(
                "the group moved on without this plan",
                where=f"group {self._plan.group}",
                expected=f"epoch {self._plan.expected_epoch}",
                found=f"epoch {state.epoch} by plan {state.plan_id}",
                fix="Make a new plan from the group's present state",
            )
        if not committed:
            try:
                check_not_aborted(self._context.rooms, self._plan)
            except GateClosed:
                self.release()
                raise
        save_plan(self._context.rooms, self._plan)

    def _claim(self) -> EpochState:
        now = self._clock.now()
        operation = Operation(
            self._plan.operation,
            self._plan.operation_kind,
            self._context.rooms.holder,
            now,
            now + timedelta(seconds=CLAIM_SECONDS[self._plan.operation_kind]),
        )
        try:
            return self._authority.claim(self._plan.group, operation)
        except OperationInProgress:
            state = self._authority.read(self._plan.group)
            if state is not None and (state.epoch, state.plan_id) == (self._plan.epoch, self._plan.plan_id):
                return state  # past the point of no return it may always be finished
            raise

    def _step(self, name: str) -> None:
        step, context = STEP_BY_NAME[name], self._context
        missing = [s for s in self._plan.steps[: self._plan.steps.index(name)] if s not in context.records]
        if missing:
            raise GateClosed(
                f"{name} cannot run yet",
                where=f"plan {self._plan.plan_id}",
                expected="the steps before it done",
                found=f"not done: {', '.join(missing)}",
                fix="Run them first",
            )
        context.say(name, "begun")
        started_at, started = self._clock.now(), self._clock.monotonic()
        try:
            step.gate(context)
            evidence = step.run(context)
        except HoldfastError as error:
            self._failed(name, error, self._record(name, started_at, started, {}, error))
            raise
        record = self._record(name, started_at, started, evidence, None)
        self._settle()
        context.records[name] = record
        if name in _RECORDED_FIRST:
            context.records[name] = self._log.write(record)
        else:
            self._writing = self._pool.submit(self._log.write, record)
        context.say(name, "done", seconds=record.seconds)

    def _record(
        self, name: str, started_at: datetime, started: float, evidence: Evidence, error: HoldfastError | None
    ) -> StepRecord:
        ended = self._clock.monotonic()
        return StepRecord(
            plan_id=self._plan.plan_id,
            epoch=self._plan.epoch,
            step=name,
            status="failed" if error else "done",
            started_at=started_at,
            ended_at=self._clock.now(),
            seconds=max(0.0, ended - started),
            monotonic_end=ended,
            boot=self._boot,
            runner=self._context.rooms.holder,
            write_id=uuid.uuid4().hex,
            evidence=evidence,
            error=error.as_dict() if error else None,
        )

    def _failed(self, name: str, error: HoldfastError, record: StepRecord) -> None:
        self._context.say(name, "failed", seconds=record.seconds, detail=str(error))
        try:
            self._log.write(record)
        except HoldfastError as silent:  # the step's own error is the one to show
            self._context.say(name, "recorded", detail=f"the attempt could not be recorded: {silent}")

    def _settle(self) -> None:
        """Wait for the record being written. When another runner was first, its record is the one that counts."""
        writing, self._writing = self._writing, None
        if writing is not None:
            counting = writing.result()
            self._context.records[counting.step] = counting

    def _leave_if_uncommitted(self) -> None:
        if "commit_epoch" in self._context.records:
            return
        try:
            state = self._authority.read(self._plan.group)
        except HoldfastError:
            return  # unknown: the claim ends by itself
        if state is not None and state.epoch == self._plan.expected_epoch:
            self.release()

    def release(self) -> None:
        """Free the group, unless the caller keeps it."""
        if self._keep_claim:
            return
        try:
            self._authority.release(self._plan.group, self._plan.operation)
        except HoldfastError as error:
            self._context.say("release", "failed", detail=f"the claim ends by itself: {error}")
