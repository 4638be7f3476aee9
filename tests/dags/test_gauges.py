"""A job's heartbeat becomes Airflow's own metrics: what its configured backend then gets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.engine.compute import ComputeUnavailable, JobState, JobStatus
from holdfast.triggers.gauges import tell
from holdfast.triggers.training import TrainingJobTrigger

HEARTBEAT = {
    "step": 120,
    "saving": {"stall_seconds": 0.25},
    "replicas": {
        "gcp": {"work_at_risk": {"steps": 20, "seconds": 4.5}},
        "azure": {"work_at_risk": {"steps": 120, "seconds": None}},
    },
}
AT = {"run": "desk-job", "site": "aws"}
EXPECTED = [
    ("holdfast.training.step", 120.0, AT),
    ("holdfast.training.save_stall_seconds", 0.25, AT),
    ("holdfast.training.work_at_risk_steps", 20.0, {**AT, "standby": "gcp"}),
    ("holdfast.training.work_at_risk_seconds", 4.5, {**AT, "standby": "gcp"}),
    ("holdfast.training.work_at_risk_steps", 120.0, {**AT, "standby": "azure"}),
]


class Backend:
    """A metrics backend as Airflow takes one; remembers the gauges."""

    def __init__(self) -> None:
        self.gauges: list[tuple[str, float, Mapping[str, Any]]] = []

    def gauge(self, stat: str, value: float, *, tags: Mapping[str, Any], **_: Any) -> None:
        self.gauges.append((stat, value, tags))


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """What Airflow's own `stats` hands to the backend that is configured."""
    from airflow.sdk._shared.observability.metrics import stats

    backend = Backend()
    monkeypatch.setattr(stats, "_backend", backend)
    return backend


def test_what_the_heartbeat_tells_is_set_and_what_is_not_known_is_not(metrics: Backend) -> None:
    tell(HEARTBEAT, **AT)
    assert metrics.gauges == EXPECTED
    metrics.gauges.clear()
    for odd in ({}, {"step": None, "saving": [], "replicas": {"gcp": "?"}}, {"step": True, "replicas": None}):
        tell(odd, **AT)
    assert metrics.gauges == []


class Job:
    """A job seen twice: training, then ended. Its heartbeat is away the second time it is asked for."""

    def __init__(self) -> None:
        self.looks = 0

    def status(self, _handle: object) -> JobStatus:
        self.looks += 1
        return JobStatus(JobState.SUCCEEDED if self.looks == 3 else JobState.RUNNING, 120, 200, None)

    def heartbeat(self, _handle: object) -> Mapping[str, Any]:
        if self.looks == 2:
            raise ComputeUnavailable("away", where="here")
        return HEARTBEAT


def test_the_trigger_tells_while_the_job_trains(metrics: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job()
    handle = {"backend": "process", "site": "aws", "name": "desk-job.e1", "reference": {}}
    trigger = TrainingJobTrigger(site="aws", handle=handle, poll_seconds=0.0)
    monkeypatch.setattr(trigger, "_runtime", lambda: SimpleNamespace(backend=lambda _site: job))

    async def first_event() -> Any:
        return await anext(trigger.run())

    assert asyncio.run(first_event()).payload["state"] == "succeeded"
    assert metrics.gauges == EXPECTED * 2, "also of the last look"
