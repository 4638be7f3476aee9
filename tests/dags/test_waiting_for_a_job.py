"""What ends the waiting for a training job besides its end, and who may stop the job; over a world in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from holdfast.engine.compute import ComputeUnavailable, JobHandle, JobState, JobStatus
from holdfast.engine.recovery import new_plan, run_plan
from holdfast.hooks.runtime import HoldfastHook
from holdfast.operators.training import TrainOperator
from holdfast.triggers.training import NoMachineTrigger, TrainingJobTrigger
from world import AWS, GCP, GROUP, JOB, RUN, TOPOLOGY, FakeBackend, World, make_world

HANDLE: dict[str, Any] = {"backend": "fake", "site": AWS, "name": f"{RUN}.e1", "reference": {"n": 1}}


class Gone(FakeBackend):
    """The API of a lost cloud: each look costs four seconds, and none is answered."""

    looks = 0
    before_look: Callable[[int], object] = staticmethod(lambda _number: None)

    def submit(self, spec: Any) -> JobHandle:
        return JobHandle(**HANDLE)

    def status(self, handle: JobHandle) -> JobStatus:
        self.looks += 1
        assert self.looks < 50, "the waiting for a lost cloud has no end"
        self.world.clock.advance(4)
        self.before_look(self.looks)
        return self.answer()

    def answer(self) -> JobStatus:
        raise ComputeUnavailable("the API does not answer", where=self.site)


class CutOff(Gone):
    """A job that is cut off from every site but its own trains on, and learns of no epoch."""

    def answer(self) -> JobStatus:
        return JobStatus(JobState.RUNNING, step=7, total_steps=300)


@pytest.fixture(params=[Gone, CutOff])
def lost(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Gone:
    world = make_world()
    world.backends[AWS] = backend = request.param(world, AWS)
    monkeypatch.setattr(HoldfastHook, "get_conn", lambda _self: world)
    return backend


def move(world: World) -> Callable[[], None]:
    """A failover that has begun, and committed its epoch; what is returned brings it to its end."""
    world.board.cut.add(AWS)
    world.training_ends = False
    plan = new_plan(world, GROUP, reason="test")
    run_plan(world, plan, only=plan.steps[: plan.steps.index("commit_epoch") + 1], senses=world.senses)

    def arrive() -> None:
        assert run_plan(world, plan, senses=world.senses).complete

    return arrive


def trigger(**arguments: Any) -> TrainingJobTrigger:
    return TrainingJobTrigger(site=AWS, handle=HANDLE, poll_seconds=0.001, **arguments)


def train(**arguments: Any) -> TrainOperator:
    names = {"group": GROUP, "job": JOB, "run": RUN}
    return TrainOperator(task_id="train", topology_path=str(TOPOLOGY), poll_seconds=0.001, **names, **arguments)


def context() -> Any:
    store = SimpleNamespace(get=lambda _key: {"epoch": 1, "site": AWS}, set=lambda _key, _value, **_: None)
    return {"task_state_store": store, "ti": SimpleNamespace(xcom_push=lambda **_: None)}


def deferred(event: dict[str, Any]) -> Any:
    """The trigger the task waits with after an event."""
    with pytest.raises(TaskDeferred) as waits:
        train().execute_complete(context(), event)
    return waits.value.trigger


def first_event(of: Any) -> dict[str, Any]:
    async def ask() -> Any:
        async for event in of.run():
            return event.payload
        raise AssertionError("it fired nothing")

    return asyncio.run(ask())


def test_a_trigger_leaves_a_lost_cloud_and_its_task_finds_the_run_at_the_new_site(lost: Gone) -> None:
    arrive = move(lost.world)
    found = first_event(trigger(group=GROUP, epoch=1))
    assert (found["state"], found["detail"]) == ("lost", f"its epoch 1 is over: epoch 2 is at {GCP}")
    waits = deferred(found)
    assert isinstance(waits, NoMachineTrigger)
    assert datetime.fromisoformat(waits.ask_again_at) > lost.world.clock.now()
    arrive()
    there = deferred(first_event(waits))
    assert (there.site, there.epoch) == (GCP, 2)
    assert lost.world.backends[GCP].submitted == 1


def test_a_worker_leaves_it_as_well_and_finds_the_run(lost: Gone) -> None:
    world = lost.world
    plan: list[Callable[[], None]] = []
    lost.before_look = lambda number: number == 2 and plan.append(move(world))
    submit = world.backends[GCP].submit

    def ends(spec: Any) -> JobHandle:
        handle = submit(spec)
        world.publish_model(GCP, 2, b"m", run=RUN, step="300")
        world.backends[GCP].jobs[handle.name] = JobStatus(JobState.SUCCEEDED, step=300, total_steps=300)
        return handle

    world.backends[GCP].submit = ends  # type: ignore[method-assign]
    sleep = world.clock.sleep

    slept: list[float] = []

    def sleeps(seconds: float) -> None:
        sleep(seconds)
        slept.append(seconds)
        if plan and len(slept) == 50:  # by then the task waits for the plan
            plan.pop()()

    world.clock.sleep = sleeps  # type: ignore[method-assign]
    found = train(deferrable=False).execute(context())
    assert (found["site"], found["epoch"], found["step"]) == (GCP, 2, 300)


def test_the_waiting_goes_on_while_the_epoch_lasts_and_while_nobody_can_tell(lost: Gone) -> None:
    def befall(number: int) -> None:
        lost.world.epochs.available = number not in range(10, 20)
        if number == 12:
            lost.world.epochs.available = True
            lost.world.epochs.advance(GROUP, expected_epoch=1, active_site=GCP, plan_id="p", reason="test")
            lost.world.epochs.available = False

    lost.before_look = befall
    assert first_event(trigger(group=GROUP, epoch=1))["state"] == "lost"
    assert lost.looks >= 20


# -- who may stop the job -------------------------------------------------------------------------------------------


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    world = make_world()
    world.backends[AWS].jobs[f"{RUN}.e1"] = JobStatus(JobState.RUNNING)
    monkeypatch.setattr(HoldfastHook, "get_conn", lambda _self: world)
    return world.backends[AWS]


def killed(running: FakeBackend, states: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> JobState:
    """How the job stands after Airflow killed the trigger of a task that is in this state."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(lambda **_: states))
    made = trigger(**arguments)
    made._task_instance = SimpleNamespace(dag_id="d", run_id="r", task_id="train", map_index=-1)  # type: ignore[assignment]
    asyncio.run(made.on_kill())
    return running.jobs[f"{RUN}.e1"].state


@pytest.mark.parametrize("state", ["failed", "success", "skipped"])
def test_who_ends_the_task_stops_the_job_only_where_that_was_asked_for(
    running: FakeBackend, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = {"r": {"train": state}}
    assert killed(running, ended, monkeypatch) is JobState.RUNNING
    assert killed(running, ended, monkeypatch, stop_on_kill=True) is JobState.STOPPED


def test_who_ends_the_task_stops_the_run_where_a_failover_took_it(
    running: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = running.world
    move(world)()
    there = world.backends[GCP]
    assert there.jobs[f"{RUN}.e2"].state is JobState.RUNNING
    killed(running, {"r": {"train": "failed"}}, monkeypatch, stop_on_kill=True, group=GROUP, epoch=1)
    assert there.jobs[f"{RUN}.e2"].state is JobState.STOPPED


def test_a_register_that_does_not_answer_leaves_the_known_job_to_be_stopped(
    running: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.world.epochs.available = False
    ended = {"r": {"train": "failed"}}
    assert killed(running, ended, monkeypatch, stop_on_kill=True, group=GROUP, epoch=1) is JobState.STOPPED


@pytest.mark.parametrize(
    "states", [{"r": {"train": state}} for state in ("deferred", None, "queued", "running", "up_for_retry")] + [{}]
)
def test_a_task_that_goes_on_keeps_its_job(
    running: FakeBackend, states: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another triggerer took it over; it was cleared; or the database is of yesterday and does not know it."""
    assert killed(running, states, monkeypatch, stop_on_kill=True) is JobState.RUNNING


def test_a_trigger_of_an_older_version_waits_on_and_stops_nothing() -> None:
    old = {"site": AWS, "handle": HANDLE, "poll_seconds": 0.5, "grace_seconds": 3.0, "topology_path": None}
    made = TrainingJobTrigger(**old)
    assert (made.group, made.epoch, made.stop_on_kill) == (None, None, False)
    path, arguments = trigger(group=GROUP, epoch=3, stop_on_kill=True).serialize()
    assert TrainingJobTrigger(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)
