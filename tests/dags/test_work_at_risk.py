"""Waiting for little enough work at risk, and how a training task ends, over a world in memory."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from holdfast.engine.checkpoint import replicate_checkpoint
from holdfast.engine.compute import ComputeUnavailable, JobHandle, JobState, JobStatus
from holdfast.engine.pipeline import TrainingLost
from holdfast.engine.pipeline.runs import NoRun
from holdfast.errors import ConfigError
from holdfast.hooks.runtime import HoldfastHook
from holdfast.operators.links import JOB_LINKS, LINKS_KEY, JobConsoleLink, JobLogsLink, keep_links
from holdfast.operators.training import TrainOperator
from holdfast.provider import get_provider_info
from holdfast.sensors.training import WorkAtRiskSensor
from holdfast.triggers.training import NoMachineTrigger, TrainingJobTrigger
from holdfast.triggers.work_at_risk import WorkAtRiskTrigger
from world import AWS, GCP, GROUP, JOB, RUN, TOPOLOGY, FakeBackend, World, make_world

NAMES = {"group": GROUP, "job": JOB, "run": RUN}
QUICK = {"window_seconds": 0.05, "poll_seconds": 0.01}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = make_world()
    monkeypatch.setattr(HoldfastHook, "get_conn", lambda _self: made)
    return made


def sensor(**arguments: Any) -> WorkAtRiskSensor:
    return WorkAtRiskSensor(task_id="wait", topology_path=str(TOPOLOGY), **NAMES, **arguments)


def first_event(trigger: Any) -> dict[str, Any]:
    async def ask() -> Any:
        async for event in trigger.run():
            return event.payload
        raise AssertionError("it fired nothing")

    return asyncio.run(ask())


def watch(**limits: Any) -> dict[str, Any]:
    return first_event(WorkAtRiskTrigger(**NAMES, **QUICK, **limits))


def test_it_fires_when_the_standby_has_caught_up(world: World) -> None:
    newer = world.checkpoint(AWS, 140, 1)
    late = watch(max_steps=20)
    assert late["over"] == [f"{GCP}: 40 steps at risk, more than 20"]
    assert late["standbys"] == [{"standby": GCP, "steps": 40, "seconds": 1.0, "detail": ""}]
    replicate_checkpoint(world.bare(AWS), world.bare(GCP), RUN, newer, site=GCP)
    assert watch(max_steps=20, max_seconds=0)["over"] == []


def test_seconds_bind_as_steps_do(world: World) -> None:
    world.clock.advance(60)
    world.checkpoint(AWS, 101, 1)
    assert watch(max_steps=20)["over"] == []
    assert watch(max_seconds=30)["over"] == [f"{GCP}: 61.0 s at risk, more than 30 s"]


def test_what_is_not_known_is_never_within_a_limit(world: World) -> None:
    world.board.cut.add(GCP)
    assert "did not answer" in watch(max_steps=10**9)["over"][0]
    world.board.cut.add(AWS)
    assert watch(max_steps=10**9)["over"] == ["no look succeeded"]


def test_a_run_that_is_not_there_is_no_run_without_risk(world: World) -> None:
    with pytest.raises(NoRun):
        first_event(WorkAtRiskTrigger(group=GROUP, job=JOB, run=f"{RUN}.typo", max_steps=1, **QUICK))


def test_a_sensor_that_does_not_wait_looks_once_and_fails_or_skips(world: World) -> None:
    assert sensor(max_steps=20, wait=False).execute({})[0]["standby"] == GCP
    world.checkpoint(AWS, 140, 1)
    with pytest.raises(AirflowFailException, match="40 steps at risk"):
        sensor(max_steps=20, wait=False).execute({})
    with pytest.raises(AirflowSkipException, match="40 steps at risk"):
        sensor(max_steps=20, wait=False, skip=True).execute({})


def test_a_sensor_tells_what_its_trigger_found(world: World) -> None:
    found = {"standbys": [{"standby": GCP, "steps": 1, "seconds": 0.5, "detail": ""}], "over": []}
    assert sensor(max_steps=20).execute_complete({}, found) == found["standbys"]
    with pytest.raises(AirflowFailException, match="too much"):
        sensor(max_steps=20).execute_complete({}, {**found, "over": ["too much"]})


@pytest.mark.parametrize("limits", [{}, {"max_steps": -1}, {"max_seconds": "many"}, {"max_steps": True}])
def test_a_limit_that_is_none_is_refused_when_the_dag_is_parsed(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no limit"):
        sensor(**limits)


def test_a_restarted_triggerer_makes_the_same_watch_again() -> None:
    path, arguments = WorkAtRiskTrigger(**NAMES, max_steps=3, max_seconds=2.5, **QUICK).serialize()
    assert path == "holdfast.triggers.work_at_risk.WorkAtRiskTrigger"
    assert WorkAtRiskTrigger(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)


# -- how a training task ends ----------------------------------------------------------------------------------------


class Silent(FakeBackend):
    """An API that is away for many looks, then tells how the job ended."""

    away = 200

    def status(self, handle: JobHandle) -> JobStatus:
        self.away -= 1
        if self.away > 0:
            raise ComputeUnavailable("the API does not answer", where=self.site)
        return super().status(handle)


def trigger() -> TrainingJobTrigger:
    handle = {"backend": "fake", "site": AWS, "name": f"{RUN}.e1", "reference": {"n": 1}}
    return TrainingJobTrigger(site=AWS, handle=handle, poll_seconds=0.001)


@pytest.mark.parametrize("state", sorted(set(JobState) - {JobState.PENDING, JobState.RUNNING}))
def test_an_api_that_is_away_for_long_ends_nothing_and_every_end_is_told(world: World, state: JobState) -> None:
    silent = Silent(world, AWS)
    silent.jobs[f"{RUN}.e1"] = JobStatus(state, step=7, total_steps=300, detail="why")
    world.backends[AWS] = silent
    assert first_event(trigger()) == {"state": str(state), "step": 7, "total_steps": 300, "detail": "why"}
    assert silent.away == 0
    assert silent.submitted == 0


class Store(dict[str, Any]):
    """A task state store of one task."""

    def set(self, key: str, value: Any, **_: Any) -> None:
        self[key] = value


def context(pushed: dict[str, Any] | None = None) -> Any:
    told: dict[str, Any] = {} if pushed is None else pushed
    task = SimpleNamespace(xcom_push=lambda key, value: told.__setitem__(key, value))
    return {"task_state_store": Store(training_job={"epoch": 1, "site": AWS}), "ti": task}


def train(**arguments: Any) -> TrainOperator:
    return TrainOperator(task_id="train", topology_path=str(TOPOLOGY), poll_seconds=0.001, **NAMES, **arguments)


def ended(state: JobState) -> dict[str, Any]:
    return {"state": str(state), "step": 7, "total_steps": 300, "detail": "why"}


@pytest.mark.parametrize("state", [JobState.STOPPED, JobState.FENCED])
def test_a_stop_and_a_fence_are_left_to_a_retry(world: World, state: JobState) -> None:
    with pytest.raises(TrainingLost, match=str(state)):
        train().execute_complete(context(), ended(state))


def test_a_fault_of_the_job_itself_is_not_retried_unless_its_epoch_is_over(world: World) -> None:
    with pytest.raises(AirflowFailException, match="failed"):
        train().execute_complete(context(), ended(JobState.FAILED))
    world.epochs.advance(GROUP, expected_epoch=1, active_site=GCP, plan_id="p", reason="test")
    with pytest.raises(TaskDeferred) as waits:  # the plan has not said yet what the run goes on from
        train().execute_complete(context(), ended(JobState.FAILED))
    assert isinstance(waits.value.trigger, NoMachineTrigger)


@pytest.mark.parametrize(
    ("state", "error"), [(JobState.FAILED, AirflowFailException), (JobState.STOPPED, TrainingLost)]
)
def test_a_task_that_waits_in_its_worker_ends_alike(world: World, state: JobState, error: type[Exception]) -> None:
    silent = Silent(world, AWS)
    silent.jobs[f"{RUN}.e1"] = JobStatus(JobState.RUNNING)
    silent.submit = lambda spec: silent.find(spec.name)  # type: ignore[method-assign,assignment]
    world.backends[AWS] = silent

    def look(_world: World, _backend: FakeBackend, handle: JobHandle) -> None:
        silent.jobs[handle.name] = JobStatus(state)

    world.on_status = look.__get__(world)  # type: ignore[method-assign]
    with pytest.raises(error):
        train(deferrable=False).execute(context())
    assert silent.away == 0


def killed_while_waiting(world: World, **arguments: Any) -> JobState:
    """A worker is told to end while its task waits; how the job stands then."""
    operator = train(deferrable=False, **arguments)

    def killed(_status: JobStatus) -> None:
        operator.on_kill()
        raise KeyboardInterrupt

    operator._seen = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        operator.execute(context())
    return world.backends[AWS].jobs[f"{RUN}.e1"].state


def test_a_killed_worker_stops_its_job_only_where_somebody_asked_for_it(world: World) -> None:
    assert killed_while_waiting(world) is JobState.RUNNING
    assert killed_while_waiting(world, stop_on_kill=True) is JobState.STOPPED


# -- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "logs", "console"),
    [
        ({"logs": "https://l", "console": "https://c"}, "https://l", "https://c"),
        ({"console": "https://c"}, "", "https://c"),
        (None, "", ""),
    ],
)
def test_a_link_leads_where_the_backend_said(
    kept: Any, logs: str, console: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.execution_time.xcom import XCom

    asked: list[str] = []
    monkeypatch.setattr(XCom, "get_value", lambda *, ti_key, key: asked.append(key) or kept)
    key: Any = SimpleNamespace()
    assert JobLogsLink().get_link(train(), ti_key=key) == logs
    assert JobConsoleLink().get_link(train(), ti_key=key) == console
    assert asked == [LINKS_KEY] * 2


def test_a_backend_that_does_not_know_its_pages_fails_no_training(world: World) -> None:
    pushed: dict[str, Any] = {}

    def fails(_handle: JobHandle) -> dict[str, str]:
        raise ComputeUnavailable("the API does not answer")

    telling: Any = SimpleNamespace(links=fails)
    keep_links(context(pushed), telling, JobHandle("fake", AWS, "n", {}), logging.getLogger("test"))
    assert pushed == {}
    telling.links = lambda _handle: {"logs": "https://l"}
    keep_links(context(pushed), telling, JobHandle("fake", AWS, "n", {}), logging.getLogger("test"))
    assert pushed == {LINKS_KEY: {"logs": "https://l"}}


def test_airflow_is_told_of_every_link_and_module() -> None:
    info = get_provider_info()
    assert info["extra-links"] == [f"{type(link).__module__}.{type(link).__qualname__}" for link in JOB_LINKS]
    modules = {kind: info[kind][0]["python-modules"] for kind in ("sensors", "triggers")}
    assert WorkAtRiskSensor.__module__ in modules["sensors"]
    assert WorkAtRiskTrigger.__module__ in modules["triggers"]
