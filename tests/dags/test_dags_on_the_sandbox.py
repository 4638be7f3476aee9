"""``dag.test()`` of each DAG against emulated clouds with a group at work."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.drill.evidence import verify_evidence
from holdfast.engine.pipeline import require_active
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import latest
from holdfast.sandbox import Sandbox
from holdfast.sandbox.scene import set_scene, train

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "dags"
GROUP, DATASET, MODEL = "market-risk", "market-data", "volatility-model"

#: A fault that does nothing, so that nobody can detect it; it notes what it was asked.
SILENT_FAULTS = """
import os


class SilentFaults:
    description = "nothing at all"

    def __init__(self, environ):
        self.calls = environ["TEST_FAULTS"]

    def inject(self, site, mode, **parameters):
        self.note("inject")

    def clear(self, site):
        self.note("clear")

    def note(self, call):
        with open(self.calls, "a") as file:
            file.write(call + " ")
"""

pytestmark = [pytest.mark.sandbox, pytest.mark.alone, pytest.mark.timeout(1200)]


@dataclass
class Stage:
    """A group at work. The tests of this file use it in order: each leaves a world the next can begin in."""

    sandbox: Sandbox
    runtime: Runtime
    environ: dict[str, str]

    @property
    def state(self) -> Any:
        return require_active(self.runtime, GROUP)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    sandbox = Sandbox(
        tmp_path_factory.mktemp("stage"), topology=ROOT / "include" / "holdfast.yaml", owner_pid=os.getpid()
    )
    try:
        sandbox.up(timeout=180, agents=True)
        # Short enough for a test, long enough to be interrupted.
        environ = {**sandbox.environment(), "HOLDFAST_STEP_SECONDS": "0.2"}
        runtime = Runtime.from_environment(environ={**os.environ, **environ})
        set_scene(runtime, GROUP)
        yield Stage(sandbox, runtime, environ)
        stop_jobs(runtime, sandbox)
    finally:
        sandbox.down()


def stop_jobs(runtime: Runtime, sandbox: Sandbox) -> None:
    """A training outlives its task on purpose, so it also would outlive these tests."""
    for site in runtime.topology.sites:
        backend = runtime.backend(site)
        for folder in (sandbox.paths.state / "jobs" / site).glob("*.e*"):
            if handle := backend.find(folder.name):
                backend.stop(handle, grace_seconds=0.5)


@pytest.fixture
def run(stage: Stage, start_dag: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Run one of the project's DAGs to its end."""

    def of(dag_id: str, conf: dict[str, Any] | None = None, **environ: str) -> dict[str, Any]:
        test = start_dag(DAGS / f"{dag_id}.py", dag_id, conf, **{**stage.environ, **environ})
        result = test.result(timeout=900)
        result["log"] = test.text
        return result

    return of


def states(result: dict[str, Any]) -> dict[str, str]:
    return {name: task["state"] for name, task in result["tasks"].items()}


def test_replication_publishes_checks_and_verifies_at_every_site(stage: Stage, run):
    result = run("replicate_datasets")
    assert set(states(result).values()) == {"success"}, result["log"][-4000:]
    done = result["tasks"][f"{GROUP}.protect"]["result"]
    assert {(row["subject"], row["target"]) for row in done} >= {
        (DATASET, "gcp-europe-west1"),
        (DATASET, "azure-westeurope"),
        (MODEL, "gcp-europe-west1"),
    }
    here = latest(stage.runtime.store(stage.state.active_site), DATASET, epoch=stage.state.epoch)
    there = latest(stage.runtime.store("azure-westeurope"), DATASET, epoch=stage.state.epoch)
    assert (here.snapshot_id, here.manifest_digest) == (there.snapshot_id, there.manifest_digest)


def test_a_failover_of_a_healthy_site_asks_a_person_and_no_answer_changes_nothing(stage: Stage, run):
    before = stage.state
    result = run("fail_over", {"group": GROUP, "reason": "a test of the question"})
    assert states(result)["fail_over"] == states(result)["resume_training"] == "skipped", result["log"][-4000:]
    assert result["tasks"]["approve"]["result"]["approved"] is False
    assert "is healthy, not down by the rules" in result["log"]
    assert (stage.state.epoch, stage.state.operation) == (before.epoch, None)


def test_a_watch_over_a_healthy_site_starts_nothing(stage: Stage, run):
    result = run("watch_sites")
    assert set(states(result).values()) == {"skipped"}, result["log"][-4000:]


def test_a_fault_nobody_notices_is_lifted_all_the_same_and_the_drill_is_no_pass(stage: Stage, run, tmp_path: Path):
    train(stage.runtime, GROUP)
    before = stage.state
    (tmp_path / "silent_faults.py").write_text(SILENT_FAULTS)
    result = run(
        "failover_drill",
        {},
        AIRFLOW__HOLDFAST__EVIDENCE_FOLDER=str(tmp_path / "evidence"),
        AIRFLOW__HOLDFAST__FAULT_INJECTOR="silent_faults.SilentFaults",
        PYTHONPATH=str(tmp_path),
        TEST_FAULTS=str(tmp_path / "calls"),
    )
    assert result["state"] == "failed"
    assert {name: state for name, state in states(result).items() if state != "upstream_failed"} == {
        "prepare": "success",
        "inject": "success",
        "detect": "failed",
        "lift": "success",
        "conclude": "failed",
    }
    assert (tmp_path / "calls").read_text().split() == ["inject", "clear"]
    folder = next((tmp_path / "evidence").iterdir())
    journal = json.loads((folder / "journal.json").read_text())
    assert (journal["status"], journal["verdict"]["passed"], journal["rollback"]["fault_lifted"]) == (
        "failed",
        False,
        True,
    )
    assert journal["error"]["error"] == "FaultNotNoticed"
    assert verify_evidence(folder).status == "failed"
    assert (stage.state.epoch, stage.state.operation) == (before.epoch, None)


def test_a_drill_fails_over_lifts_the_fault_and_signs_what_it_measured(stage: Stage, run, tmp_path: Path):
    # The run of the test before is near its end by now; this one is to be interrupted in the middle of its own.
    # The plan takes both along: the other one was killed, and nobody has seen it end.
    stop_jobs(stage.runtime, stage.sandbox)
    train(stage.runtime, GROUP)
    before = stage.state
    result = run(
        "failover_drill",
        {"group": GROUP, "scenario": "site-outage"},
        AIRFLOW__HOLDFAST__EVIDENCE_FOLDER=str(tmp_path / "evidence"),
    )
    assert set(states(result).values()) == {"success"}, result["log"][-6000:]
    folder = Path(result["tasks"]["conclude"]["result"]["evidence"])
    journal = json.loads((folder / "journal.json").read_text())
    assert (journal["status"], journal["deviated"], journal["verdict"]["passed"]) == ("completed", False, True)
    assert verify_evidence(folder).drill_id == result["tasks"]["prepare"]["result"]["drill_id"]
    assert (stage.state.epoch, stage.state.operation) == (before.epoch + 1, None)
    assert {site.mode for site in stage.sandbox.status().sites} == {"up"}


def test_a_drill_that_a_rule_forbids_sets_no_fault_and_signs_the_refusal(stage: Stage, run, tmp_path: Path):
    """After the drill before, the group is active where its traffic record is hosted."""
    before = stage.state
    result = run("failover_drill", {}, AIRFLOW__HOLDFAST__EVIDENCE_FOLDER=str(tmp_path / "evidence"))
    assert result["state"] == "failed"
    assert states(result)["inject"] == "upstream_failed"
    journal = json.loads(next((tmp_path / "evidence").glob("*/journal.json")).read_text())
    assert (journal["status"], journal["fault"], journal["verdict"]["passed"]) == ("refused", None, None)
    assert (stage.state.epoch, stage.state.operation) == (before.epoch, None)


def test_training_ends_with_a_model_at_every_site(stage: Stage, run):
    result = run("train_model", {"group": GROUP, "job": "volatility"}, HOLDFAST_STEPS="40", HOLDFAST_STEP_SECONDS="0")
    assert set(states(result).values()) == {"success"}, result["log"][-4000:]
    trained = result["tasks"]["train"]["result"]
    assert (trained["model"], trained["site"], trained["step"]) == (MODEL, stage.state.active_site, 40)
    for site in stage.runtime.topology.sites:
        assert latest(stage.runtime.store(site), MODEL, epoch=stage.state.epoch).snapshot_id == trained["snapshot_id"]
