"""Two people at a real Airflow: who starts a failover or live restore cannot approve it, whatever they do there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from holdfast.engine.pipeline import publish_dataset, require_active
from holdfast.engine.pipeline.vaults import backing_up, opening
from holdfast.engine.recovery import load_plan, read_records
from holdfast.engine.recovery.protection import protect_group
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import latest
from holdfast.sandbox import Sandbox
from holdfast.sandbox.airflow import AirflowStack, DagRun
from survival_world import AWS, GCP, ROOT, eventually, rows

pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.slow, pytest.mark.sandbox, pytest.mark.timeout(900)]

GROUP, DATASET = "desk", "desk-data"
#: Of the SimpleAuthManager: `user` may start, answer, clear and mark, and change XComs.
USERS = {"alice": "user", "bob": "user"}
PASSWORD = "a test's password"


class WithPeople(AirflowStack):
    """An Airflow that alice and bob may log in to."""

    def prepare(self, **options: Any) -> None:
        super().prepare(**options)
        file = self.state / "passwords.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | dict.fromkeys(USERS, PASSWORD)))

    def _environ(self, settings: Mapping[str, Any]) -> dict[str, str]:
        found = super()._environ(settings)
        users = ",".join(f"{user}:{role}" for user, role in USERS.items())
        name = "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"
        return found | {name: f"{found[name]},{users}"}


@dataclass
class Stage:
    """A group with four eyes, backed up, at three emulated clouds, and an Airflow with people."""

    airflow: WithPeople
    runtime: Runtime
    backup: str
    tokens: dict[str, str] = field(default_factory=dict)

    def ask(self, user: str, method: str, path: str, **body: Any) -> Any:
        """One call of the API as a person, which Airflow accepts."""
        with httpx.Client(base_url=self.airflow.address, timeout=60) as client:
            if user not in self.tokens:
                login = client.post("/auth/token", json={"username": user, "password": PASSWORD})
                self.tokens[user] = login.raise_for_status().json()["access_token"]
            headers = {"Authorization": f"Bearer {self.tokens[user]}"}
            answer = client.request(method, f"/api/v2/dags/{path}", headers=headers, json=body)
            assert answer.is_success, answer.text
            return answer.json()

    def start(self, user: str, dag_id: str, **conf: Any) -> DagRun:
        self.airflow.wait_for_dag(dag_id)
        self.airflow.pause(dag_id, False)
        made = self.ask(user, "POST", f"{dag_id}/dagRuns", logical_date=None, conf=conf)
        assert made["triggering_user_name"] == user
        return DagRun(dag_id, made["dag_run_id"])

    def answer(self, user: str, run: DagRun) -> None:
        self.airflow.wait_for_question(run, "approve", timeout_seconds=240)
        task = f"{run.dag_id}/dagRuns/{run.run_id}/taskInstances/approve"
        # Airflow 3.3.2 takes an answer that comes before the executor has told of the parked process for a lost task
        # and retries it. No person is that fast.
        parked = f"ti_id={self.ask(user, 'GET', task)['id']}"
        log = self.airflow.state / "logs" / "scheduler.log"
        eventually(lambda: any(parked in one and "executor_state=success" in one for one in log.open(errors="replace")))
        path = f"{task}/-1/hitlDetails"
        said = self.ask(user, "PATCH", path, chosen_options=["Approve"], params_input={})
        assert said["responded_by"]["name"] == user

    def clear(self, user: str, run: DagRun, task: str) -> None:
        choice = {"task_ids": [task], "only_failed": False, "include_downstream": True, "reset_dag_runs": True}
        self.ask(user, "POST", f"{run.dag_id}/clearTaskInstances", dag_run_id=run.run_id, dry_run=False, **choice)

    def where(self) -> tuple[int, str, object]:
        """The group's epoch, its active site, and who has it."""
        state = require_active(self.runtime, GROUP)
        return state.epoch, state.active_site, state.operation

    def task(self, run: DagRun, task: str) -> str | None:
        return next(one.state for one in self.airflow.tasks(run) if one.task_id == task)

    def logs(self, run: DagRun, task: str) -> str:
        """The newest try's log with its errors' details, as JSON."""
        path = f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task}"
        newest = self.airflow.request("GET", path)["try_number"]
        return json.dumps(self.airflow.request("GET", f"{path}/logs/{newest}", params={"full_content": "true"}))

    def ends(self, run: DagRun, state: str, task: str) -> None:
        """The run ends so; the log of a task says why not."""
        assert self.airflow.wait(run, timeout_seconds=300) == state, self.logs(run, task)[-4000:]


def write_topology(folder: Path) -> Path:
    topology = yaml.safe_load((ROOT / "include" / "holdfast.yaml").read_text())
    group = topology["groups"]["market-risk"]
    vault = topology["vaults"]["market-risk"]
    topology |= {"services": {}, "training": {}, "datasets": {DATASET: {"path": DATASET}}, "vaults": {GROUP: vault}}
    topology["groups"] = {
        GROUP: {
            **group,
            "four_eyes": True,
            "objectives": {"rpo_seconds": 3600, "rto_seconds": 60},
            "fencing": {"fence_seconds": 1, "clock_skew_seconds": 0},
            "datasets": [DATASET],
            "training": [],
            "services": [],
            "vaults": [GROUP],
        }
    }
    file = folder / "topology.yaml"
    file.write_text(yaml.safe_dump(topology))
    return file


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    (folder / "dags").mkdir()
    for name in ("fail_over.py", "restore.py"):
        shutil.copy(ROOT / "dags" / name, folder / "dags")
    sandbox = Sandbox(folder / "sandbox", topology=write_topology(folder), owner_pid=os.getpid())
    airflow = WithPeople(folder / "airflow", {}, dags=folder / "dags", plugins=ROOT / "plugins")
    try:
        sandbox.up(timeout=180)
        airflow.environment = sandbox.environment()
        airflow.prepare()
        airflow.start()
        runtime = Runtime.from_environment(environ={**os.environ, **sandbox.environment()})
        runtime.authority(GROUP).advance(GROUP, expected_epoch=0, active_site=AWS, plan_id="init", reason="test")
        runtime.store(AWS).put(f"data/{DATASET}/part.parquet", rows())
        publish_dataset(runtime, GROUP, DATASET)
        assert all(one.ok for one in protect_group(runtime, GROUP, require_active(runtime, GROUP)))
        opening.made(runtime, GROUP)
        (backup,) = backing_up.back_up_group(runtime, GROUP, vault=GROUP)
        assert backup.made is not None
        airflow.wait_healthy()
        yield Stage(airflow, runtime, backup.made.to_summary()["backup"])
    finally:
        airflow.down()
        sandbox.down()


def test_a_failover_waits_for_somebody_else_than_who_started_it(stage: Stage) -> None:
    before = stage.where()
    run = stage.start("alice", "fail_over", group=GROUP, verb="switchover", reason="maintenance")
    stage.answer("alice", run)
    stage.ends(run, "failed", "approve")
    assert "may not approve it as well; expected the approval of somebody other than alice" in stage.logs(
        run, "approve"
    )
    assert (stage.task(run, "approve"), stage.task(run, "fail_over")) == ("failed", "upstream_failed")
    assert stage.where() == before

    # She says that the task succeeded, and that bob approved.
    task = f"fail_over/dagRuns/{run.run_id}/taskInstances/approve"
    (plan_id,) = {one.key.split("/")[2] for one in stage.runtime.store(GCP).list(f"plans/{GROUP}/")}
    forged = {"plan_id": plan_id, "approved": True, "approved_by": "bob"}
    stage.ask("alice", "POST", f"{task}/xcomEntries", key="return_value", value=forged)
    stage.ask("alice", "PATCH", f"{task}", new_state="success")
    stage.clear("alice", run, "fail_over")
    stage.ends(run, "failed", "fail_over")
    assert (stage.task(run, "approve"), stage.task(run, "fail_over")) == ("success", "failed")
    assert "a person has to decide" in stage.logs(run, "fail_over")
    assert stage.where() == before

    stage.clear("alice", run, "approve")
    stage.answer("bob", run)
    stage.ends(run, "success", "fail_over")
    decision = stage.airflow.result(run, "approve")
    assert (decision["plan_id"], decision["asked_by"], decision["approved_by"]) == (plan_id, "alice", "bob")
    assert (before, stage.where()) == ((1, AWS, None), (2, GCP, None))
    decided = read_records(stage.runtime, load_plan(stage.runtime, GROUP, plan_id))["decide"].evidence
    assert (decided["asked_by"], decided["approved_by"]) == ("alice", "bob")
    assert decided["four_eyes"] == {"required": True, "held": True}


def test_a_live_restore_waits_for_somebody_else_than_who_started_it(stage: Stage) -> None:
    def newest() -> Any:
        state = require_active(stage.runtime, GROUP)
        return latest(stage.runtime.store(state.active_site), DATASET, epoch=state.epoch)

    before = newest()
    run = stage.start("alice", "restore_live", vault=GROUP, group=GROUP, source=DATASET, reason="spoiled")
    stage.answer("alice", run)
    stage.ends(run, "failed", "approve")
    assert "may not approve it as well; expected the approval of somebody other than alice" in stage.logs(
        run, "approve"
    )
    task = f"restore_live/dagRuns/{run.run_id}/taskInstances/approve"
    forged = {"backup": stage.backup, "approved": True, "approved_by": "bob"}
    stage.ask("alice", "POST", f"{task}/xcomEntries", key="return_value", value=forged)
    stage.ask("alice", "PATCH", f"{task}", new_state="success")
    stage.clear("alice", run, "restore")
    stage.ends(run, "failed", "restore")
    assert "a second person has to approve a live restore" in stage.logs(run, "restore")
    assert newest() == before

    stage.clear("alice", run, "approve")
    stage.answer("bob", run)
    stage.ends(run, "success", "restore")
    assert stage.task(run, "restore") == "success"
    assert newest().snapshot_id != before.snapshot_id
    assert newest().labels.items() >= {"approved_by": "bob", "asked_by": "alice"}.items()
