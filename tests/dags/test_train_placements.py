"""A training task and the machines of its job, over a world in memory: replaced, waited for, done without, given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred
from airflow.sdk.observability.stats import Stats

from holdfast.engine.authority.interface import Operation
from holdfast.engine.compute import ComputeUnavailable, JobHandle, JobState, JobStatus
from holdfast.engine.config.compute import Placement
from holdfast.engine.config.models import NoCapacityPolicy
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.pipeline import TrainingLost
from holdfast.engine.recovery import new_plan, run_plan
from holdfast.hooks.runtime import HoldfastHook
from holdfast.operators.recovery import ResumeTrainingOperator
from holdfast.operators.training import NO_MACHINE_METRIC, TrainOperator
from holdfast.triggers.training import NoMachineTrigger, TrainingJobTrigger
from world import AWS, GCP, GROUP, JOB, RUN, TOPOLOGY, FakeBackend, World, make_world

SPOT, STAYS = Placement(machine="small", spot=True), Placement(machine="big")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = make_world()
    made.may_run_at(SPOT, STAYS)
    monkeypatch.setattr(HoldfastHook, "get_conn", lambda _self: made)
    return made


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setattr(Stats, "incr", lambda stat, *, tags: found.append((stat, tags)))
    return found


class Store(dict[str, Any]):
    """A task state store of one task."""

    def set(self, key: str, value: Any, **_: Any) -> None:
        self[key] = json.loads(json.dumps(value))


class Task:
    """One training task: what its tries share."""

    def __init__(self, run: str = f"{RUN}.one", **arguments: Any) -> None:
        self.store = Store()
        self.arguments = {"group": GROUP, "job": JOB, "run": run, "poll_seconds": 0.001, **arguments}

    @property
    def context(self) -> Any:
        return {"task_state_store": self.store, "ti": SimpleNamespace(xcom_push=lambda **_: None)}

    def new(self) -> TrainOperator:
        return TrainOperator(task_id="train", topology_path=str(TOPOLOGY), **self.arguments)

    def deferred(self, event: dict[str, Any] | None = None) -> Any:
        """The trigger the task waits with, after its start or after an event."""
        operator, context = self.new(), self.context
        go_on = partial(operator.execute, context)
        if event is not None:
            go_on = partial(operator.execute_complete, context, event)
        with pytest.raises(TaskDeferred) as waits:
            go_on()
        return waits.value.trigger


def fired(trigger: Any) -> dict[str, Any]:
    async def ask() -> Any:
        async for event in trigger.run():
            return event.payload
        raise AssertionError("it fired nothing")

    return asyncio.run(ask())


def ends(world: World, state: JobState, *, site: str = AWS, run: str = f"{RUN}.one", epoch: int = 1) -> None:
    world.backends[site].jobs[f"{run}.e{epoch}"] = JobStatus(state, detail="why")


@pytest.mark.parametrize("state", [JobState.LOST, JobState.PREEMPTED, JobState.NO_CAPACITY])
def test_a_machine_is_replaced_within_the_try(world: World, state: JobState) -> None:
    task = Task()
    first = task.deferred()
    assert isinstance(first, TrainingJobTrigger)
    ends(world, state)
    second = task.deferred(fired(first))
    assert (first.handle["reference"]["attempt"], second.handle["reference"]["attempt"]) == (1, 2)
    assert world.backends[AWS].asked[-2:] == ["small, spot", "big"]
    assert task.store["training_job"]["placement"] == {"machine": "big", "spot": False}


def test_an_airflow_that_forgot_everything_goes_on_where_the_bucket_says(world: World) -> None:
    first = Task().deferred()
    ends(world, JobState.PREEMPTED)
    world.may_run_at(SPOT, STAYS, recovery="on-demand-after-preemption")
    assert Task().deferred(fired(first)).handle["reference"]["attempt"] == 2
    ends(world, JobState.LOST)
    assert Task().deferred().handle["reference"]["attempt"] == 3
    assert world.backends[AWS].asked[-3:] == ["small, spot", "big", "big"]


def test_a_failure_of_its_own_fails_fast_and_clearing_the_task_starts_it_again(world: World) -> None:
    task = Task()
    first = task.deferred()
    ends(world, JobState.FAILED)
    with pytest.raises(AirflowFailException, match="the training job failed"):
        task.new().execute_complete(task.context, fired(first))
    assert world.backends[AWS].submitted == 2  # the world's own run, and this one
    with pytest.raises(AirflowFailException, match="1 fault of its own"):  # another task was told nothing
        Task().new().execute(Task().context)
    assert task.deferred().handle["reference"]["attempt"] == 2


def test_without_a_machine_the_task_waits_and_asks_again(
    world: World, counted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backends[AWS].full = {"small", "big"}
    task = Task()
    waits = task.deferred()
    assert isinstance(waits, NoMachineTrigger)
    assert datetime.fromisoformat(waits.ask_again_at) == world.clock.now() + timedelta(seconds=30)
    assert counted == [(NO_MACHINE_METRIC, {"group": GROUP, "job": JOB})]
    path, arguments = waits.serialize()
    assert path == "holdfast.triggers.training.NoMachineTrigger"
    over = NoMachineTrigger(**{**arguments, "ask_again_at": datetime.now(UTC).isoformat()})
    event = fired(over)
    assert isinstance(task.deferred(event), NoMachineTrigger)
    assert len(world.backends[AWS].asked) == 3  # the world's own run's, and one round
    world.clock.advance(30)
    world.backends[AWS].full = set()
    assert task.deferred(event).handle["reference"]["attempt"] == 1


def test_a_group_that_goes_on_without_training_skips_the_task(world: World, counted: list[Any]) -> None:
    world.may_run_at(SPOT, STAYS, no_capacity=NoCapacityPolicy.GO_ON)
    world.backends[AWS].full = {"small", "big"}
    with pytest.raises(AirflowSkipException, match="no placement has a machine"):
        Task().new().execute(Task().context)
    assert len(counted) == 1


def test_a_group_that_fails_without_a_machine_fails_the_task_and_clearing_asks_again(world: World) -> None:
    world.may_run_at(SPOT, STAYS, no_capacity=NoCapacityPolicy.FAIL)
    world.backends[AWS].full = {"small", "big"}
    task = Task()
    with pytest.raises(AirflowFailException, match="2 placements without a machine"):
        task.new().execute(task.context)
    world.backends[AWS].full = set()
    assert task.deferred().handle["reference"]["attempt"] == 1


def test_a_task_that_waits_in_its_worker_replaces_the_machine_too(world: World) -> None:
    ended = {1: JobState.PREEMPTED, 2: JobState.LOST, 3: JobState.SUCCEEDED}

    def look(_world: World, backend: FakeBackend, handle: JobHandle) -> None:
        backend.jobs[handle.name] = JobStatus(ended[handle.attempt])
        if handle.attempt == 3:
            world.publish_model(AWS, 1, b"m", run=f"{RUN}.one", step="300")

    world.on_status = look.__get__(world)  # type: ignore[method-assign]
    found = Task(deferrable=False).new().execute(Task().context)
    assert found["step"] == 300
    assert world.backends[AWS].asked[-3:] == ["small, spot", "big", "small, spot"]


def silent(world: World) -> Callable[[JobHandle], JobStatus]:
    def status(_handle: JobHandle) -> JobStatus:
        world.clock.advance(4)
        raise ComputeUnavailable("the cloud is gone", where=AWS)

    return status


def test_a_lost_cloud_that_answers_nothing_is_left_when_the_group_has_moved(world: World) -> None:
    task = Task(run=RUN)
    first = task.deferred()
    world.backends[AWS].status = silent(world)  # type: ignore[method-assign]
    world.board.cut.add(AWS)
    world.training_ends = False
    assert run_plan(world, new_plan(world, GROUP, reason="test"), senses=world.senses).complete
    event = fired(first)
    assert event["state"] == "lost"
    assert "its epoch 1 is over" in event["detail"]
    second = task.deferred(event)
    assert (second.site, second.epoch) == (GCP, 2)
    assert world.backends[GCP].submitted == 1


def test_a_job_that_waits_too_long_for_a_machine_is_asked_about_again(world: World) -> None:
    patient = Placement(machine="small", spot=True, wait_seconds=300)
    world.may_run_at(patient, STAYS)
    task = Task()
    first = task.deferred()
    ends(world, JobState.PENDING)
    world.clock.advance(301)
    event = fired(TrainingJobTrigger(**json.loads(json.dumps(first.serialize()[1]))))
    assert event["state"] == "pending"
    second = task.deferred(event)
    assert second.handle["reference"]["attempt"] == 2
    assert world.backends[AWS].asked[-1] == "big"


def test_a_plan_that_finds_no_machine_says_so_in_log_and_metric(
    world: World, counted: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    world.backends[GCP].full = {"small", "big"}
    world.board.cut.add(AWS)
    plan = new_plan(world, GROUP, reason="test", plan_id="p")
    run_plan(world, plan, only=plan.steps[:-1], senses=world.senses)
    operator = ResumeTrainingOperator(task_id="resume", topology_path=str(TOPOLOGY), group=GROUP, plan_id="p")
    found = operator.execute({})
    (job,) = found["evidence"]["jobs"]
    assert (job["handle"], job["degraded"]["policy"]) == (None, "wait")
    assert counted == [(NO_MACHINE_METRIC, {"group": GROUP, "job": JOB})]


# -- what asking again may mend ends no try ----------------------------------------------------------------------------


def test_a_plan_under_way_as_a_machine_is_replaced_is_waited_for(world: World) -> None:
    task = Task(run=RUN)
    first = task.deferred()
    ends(world, JobState.LOST, run=RUN)
    now = world.clock.now()
    world.epochs.claim(GROUP, Operation("p1", "failover", "someone", now, now + timedelta(seconds=600)))
    waits = task.deferred(fired(first))
    assert isinstance(waits, NoMachineTrigger)
    assert datetime.fromisoformat(waits.ask_again_at) > now
    world.epochs.release(GROUP, "p1")
    assert task.deferred(fired(waits)).handle["reference"]["attempt"] == 2


def test_a_service_that_is_away_as_a_machine_is_replaced_is_waited_for(world: World) -> None:
    task = Task()
    first = task.deferred()
    ends(world, JobState.PREEMPTED)
    submit = world.backends[AWS].submit

    def down(_spec: Any) -> JobHandle:
        raise ComputeUnavailable("503", where=AWS)

    world.backends[AWS].submit = down  # type: ignore[method-assign]
    waits = task.deferred(fired(first))
    world.backends[AWS].submit = submit  # type: ignore[method-assign]
    assert task.deferred(fired(waits)).handle["reference"]["attempt"] == 2


def test_a_first_start_that_cannot_be_made_is_left_to_a_retry(world: World) -> None:
    world.board.cut.add(AWS)
    with pytest.raises(StoreUnavailable):
        Task().new().execute(Task().context)


def test_a_register_without_a_majority_as_the_job_ends_keeps_its_end(world: World) -> None:
    task = Task()
    first = task.deferred()
    ends(world, JobState.STOPPED)
    event = fired(first)
    world.epochs.available = False
    waits = task.deferred(event)
    assert isinstance(waits, NoMachineTrigger)
    world.epochs.available = True
    again = fired(NoMachineTrigger(**json.loads(json.dumps(waits.serialize()[1]))))
    assert again == event
    with pytest.raises(TrainingLost):  # what somebody stopped is not started again by the wait
        task.new().execute_complete(task.context, again)
    assert world.backends[AWS].attempts[f"{RUN}.one.e1"] == 1


def test_a_job_that_waits_for_another_machine_is_left_its_place_in_the_queue(world: World) -> None:
    world.may_run_at(Placement(machine="small", spot=True, wait_seconds=60), STAYS)
    trigger = Task().deferred()
    world.clock.advance(3600)
    looks = 0

    def status(_handle: JobHandle) -> JobStatus:
        nonlocal looks
        looks += 1
        state = JobState.PENDING if looks < 20 else JobState.SUCCEEDED
        return JobStatus(state, step=5, heartbeat_at=world.clock.now())

    world.backends[AWS].status = status  # type: ignore[method-assign]
    assert fired(trigger)["state"] == "succeeded"


def test_a_job_whose_wait_is_over_and_that_cannot_be_stopped_is_asked_about_after_a_pause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.may_run_at(Placement(machine="small", wait_seconds=60), STAYS)
    task = Task(poll_seconds=7.0)
    trigger = task.deferred()
    ends(world, JobState.PENDING)
    world.clock.advance(61)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    world.backends[AWS].stop = lambda _handle, **_: JobStatus(JobState.PENDING)  # type: ignore[method-assign]
    for count in range(1, 4):
        trigger = task.deferred(fired(trigger))
        assert pauses == [7.0] * count
