"""The drill as a person starts it: a real scheduler, triggerer, dag-processor and API server, asked over REST."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.engine.drill.evidence import EvidenceInvalid, verify_evidence
from holdfast.engine.pipeline import require_active
from holdfast.engine.runtime import Runtime
from holdfast.sandbox import Sandbox
from holdfast.sandbox.airflow import AirflowRefused, AirflowStack
from holdfast.sandbox.airflow_connection import USER
from holdfast.sandbox.scene import set_scene

ROOT = Path(__file__).resolve().parents[2]
GROUP = "market-risk"

pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.slow, pytest.mark.sandbox, pytest.mark.timeout(1500)]


@dataclass
class Stage:
    """Three clouds with a group at work, and an Airflow that knows them."""

    airflow: AirflowStack
    runtime: Runtime
    sandbox: Sandbox


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    state = tmp_path_factory.mktemp("stage")
    sandbox = Sandbox(state, topology=ROOT / "include" / "holdfast.yaml", owner_pid=os.getpid())
    airflow = AirflowStack(state / "airflow", {}, dags=ROOT / "dags", plugins=ROOT / "plugins")
    try:
        sandbox.up(timeout=180, agents=True)
        airflow.environment = sandbox.environment()
        airflow.up(timeout_seconds=400)
        runtime = Runtime.from_environment(environ={**os.environ, **sandbox.environment()})
        set_scene(runtime, GROUP)
        yield Stage(airflow, runtime, sandbox)
    finally:
        airflow.down()
        stop_jobs(sandbox)
        sandbox.down()


def stop_jobs(sandbox: Sandbox) -> None:
    """A training outlives its task on purpose, so it also would outlive this test."""
    if not sandbox.is_up:
        return
    runtime = Runtime.from_environment(environ={**os.environ, **sandbox.environment()})
    for site in runtime.topology.sites:
        backend = runtime.backend(site)
        for folder in (sandbox.paths.state / "jobs" / site).glob("*.e*"):
            if handle := backend.find(folder.name):
                backend.stop(handle, grace_seconds=0.5)


def test_the_api_lets_nobody_in_without_the_password(stage: Stage):
    answer = httpx.post(f"{stage.airflow.address}/auth/token", json={"username": USER, "password": "wrong"}, timeout=30)
    assert answer.status_code == 401
    assert httpx.get(f"{stage.airflow.address}/api/v2/dags", timeout=30).status_code == 401


@pytest.mark.parametrize("conf", [{"scenario": "no-such-scenario"}, {"group": "no-such-group"}, {"group": 7}])
def test_a_name_the_topology_does_not_have_is_refused_and_changes_nothing(stage: Stage, conf: dict[str, Any]):
    before = require_active(stage.runtime, GROUP)
    with pytest.raises(AirflowRefused, match=r"400|422"):
        stage.airflow.trigger("failover_drill", conf)
    assert require_active(stage.runtime, GROUP) == before


def test_the_drill_that_rest_starts_fails_over_and_leaves_evidence_that_verifies(stage: Stage):
    before = require_active(stage.runtime, GROUP)
    run = stage.airflow.trigger("failover_drill", {"group": GROUP, "scenario": "site-outage"}, note="end to end")
    state = stage.airflow.wait(run, timeout_seconds=900)
    tasks = {task.task_id: task.state for task in stage.airflow.tasks(run)}
    result = stage.airflow.result(run, "conclude")
    assert result is not None, {task: stage.airflow.log(run, task)[-2000:] for task in tasks}
    folder = Path(result["evidence"])
    journal = json.loads((folder / "journal.json").read_text())
    assert (state, journal["status"], journal["error"]) == ("success", "completed", None), json.dumps(journal)
    assert set(tasks.values()) == {"success"}
    measured_in_this_run(journal)
    assert journal["epoch"] == {"before": before.epoch, "after": before.epoch + 1}
    after = require_active(stage.runtime, GROUP)
    assert (after.epoch, after.active_site, after.operation) == (before.epoch + 1, journal["plan"]["target"], None)
    assert {site.mode for site in stage.sandbox.status().sites} == {"up"}
    assert verify_evidence(folder).drill_id == result["drill_id"]
    changed(folder / "report.html")
    with pytest.raises(EvidenceInvalid):
        verify_evidence(folder)


def test_a_failover_of_a_healthy_site_waits_for_a_person_who_approves_over_rest(stage: Stage):
    before = require_active(stage.runtime, GROUP)
    run = stage.airflow.trigger("fail_over", {"group": GROUP, "verb": "switchover", "reason": "back again"})
    question = stage.airflow.wait_for_question(run, "approve", timeout_seconds=300)
    assert before.active_site in question["subject"]
    assert "a switchover is a person's choice" in question["body"]
    assert require_active(stage.runtime, GROUP).epoch == before.epoch
    stage.airflow.answer(run, "approve", "Approve")
    state = stage.airflow.wait(run, timeout_seconds=600)
    assert state == "success", stage.airflow.log(run, "fail_over")[-3000:]
    decision = stage.airflow.result(run, "approve")
    assert (decision["approved"], decision["approved_by"]) == (True, USER)
    after = require_active(stage.runtime, GROUP)
    assert (after.epoch, after.active_site, after.operation) == (before.epoch + 1, decision["target"], None)


def measured_in_this_run(journal: dict[str, Any]) -> None:
    """Every key the issue names is there, measured, and consistent with the others."""
    rto = journal["rto_seconds"]
    assert rto["from_fault"] > rto["from_detection"] >= rto["from_decision"] > 0
    assert rto["without_approval"] > 0
    assert rto["from_decision"] <= 15 or os.getloadavg()[0] > 3 * (os.cpu_count() or 1)
    assert {"seconds", "objects", "bytes", "training_steps"} <= set(journal["rpo"])
    assert None not in (journal["rpo"][key] for key in ("seconds", "objects", "bytes", "training_steps"))
    assert journal["stale_writes"]["attempted"] > 0
    assert journal["stale_writes"]["accepted"] == 0
    assert journal["model"]["identical"] is True
    assert journal["model"]["digest"] == journal["model"]["reference_digest"]
    assert journal["service"]["answers_equal"] is True
    assert journal["deviated"] is False
    names = [step["name"] for step in journal["steps"]]
    assert [n for n in names if n in ("inject", "commit_epoch", "verify", "lift")] == [
        "inject",
        "commit_epoch",
        "verify",
        "lift",
    ]


def changed(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
