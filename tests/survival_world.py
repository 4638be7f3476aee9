"""A real Airflow over three emulated clouds, with training whose steps a test lets happen one by one."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.checkpoint.format import CheckpointManifest, manifest_prefix, parse_manifest
from holdfast.engine.compute import JobHandle, JobState
from holdfast.engine.compute.processes import session_members
from holdfast.engine.pipeline import publish_dataset, require_active
from holdfast.engine.recovery.protection import protect_group
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import CommitRecord, records
from holdfast.sandbox import Sandbox
from holdfast.sandbox.airflow import AirflowRefused, AirflowStack, DagRun
from holdfast.sandbox.errors import SandboxNotUp

ROOT = Path(__file__).resolve().parents[1]
TRAINER = Path(__file__).parent / "e2e" / "gated_trainer.py"
AWS, GCP = "aws-eu-west-1", "gcp-europe-west1"
STEPS, EVERY = 12, 2

DAG_FILE = """
from datetime import timedelta
from airflow.sdk import DAG
from holdfast.operators.training import TrainOperator

WAYS = {
    "deferred": {},
    "deferred_stops": {"stop_on_kill": True},
    "worker": {"deferrable": False},
    "worker_stops": {"deferrable": False, "stop_on_kill": True},
}
for way, arguments in WAYS.items():
    with DAG(f"train_{way}", schedule=None, catchup=False) as dag:
        TrainOperator(
            task_id="train",
            group="{{ dag_run.conf['group'] }}",
            job="{{ dag_run.conf['job'] }}",
            run="{{ dag_run.conf['run'] }}",
            poll_seconds=0.5,
            retries=60,
            retry_delay=timedelta(seconds=1),
            **arguments,
        )
    globals()[dag.dag_id] = dag
"""

_Answer = TypeVar("_Answer")


def eventually(question: Callable[[], _Answer], seconds: float = 90.0, *, why: Callable[[], str] = str) -> _Answer:
    """Ask until the answer is true; its deadline is no measurement, only where patience ends."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := question():
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:g} s. {why()}"
        time.sleep(0.1)


def write_topology(folder: Path) -> Path:
    """Two groups with the sandbox's sites: ``desk``, and ``moving``, which is the one that fails over."""
    topology = yaml.safe_load((ROOT / "include" / "holdfast.yaml").read_text())
    group = topology["groups"]["market-risk"]
    groups = {"desk": ("job",), "moving": ("deferred", "worker")}
    topology["services"] = {}
    topology["datasets"] = {f"{name}-data": {"path": f"{name}-data"} for name in groups}
    topology["training"] = {
        f"{name}-{job}": {
            "dataset": f"{name}-data",
            "model": f"{name}-{job}-model",
            "command": ["{python}", str(TRAINER), str(folder)],
            "steps": STEPS,
            "checkpoint_every_steps": EVERY,
            "seed": 7,
        }
        for name, jobs in groups.items()
        for job in jobs
    }
    topology["groups"] = {
        name: {
            **group,
            # How old replicas may be is not what these tests ask, and they leave the groups alone for minutes.
            "objectives": {"rpo_seconds": 3600, "rto_seconds": 60},
            "datasets": [f"{name}-data"],
            "training": [f"{name}-{job}" for job in jobs],
            "services": [],
        }
        for name, jobs in groups.items()
    }
    file = folder / "topology.yaml"
    file.write_text(yaml.safe_dump(topology))
    return file


def rows() -> bytes:
    """A small table of numbers, the same ones each time."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(1)
    columns = {f"x{i}": generator.normal(size=200) for i in range(4)}
    columns["y"] = sum(columns.values()) + generator.normal(size=200)
    written = BytesIO()
    pq.write_table(pa.table(columns), written)
    return written.getvalue()


@dataclass
class Training:
    """One run of a training job, and the DAG run whose task waits for it."""

    stage: Stage
    group: str
    job: str
    run: str
    dag_run: DagRun

    # -- what the test lets it do ---------------------------------------------------------------------------------

    def allow(self, step: int) -> None:
        """Let it do its steps up to this one."""
        new = self.stage.folder / f"{self.run}.new"
        new.write_text(str(step))
        new.replace(self.stage.folder / self.run)

    def allow_all(self) -> None:
        self.allow(STEPS)

    # -- its task ---------------------------------------------------------------------------------------------------

    @property
    def task(self) -> dict[str, Any]:
        """The task instance as the API tells it."""
        found: dict[str, Any] = self.stage.airflow.request("GET", f"{self._path}/taskInstances/train")
        return found

    def wait_task(self, *states: str, tries: int = 1, seconds: float = 90.0) -> dict[str, Any]:
        """Until the task is in one of these states, in its so-manyth try or a later one."""

        def there() -> dict[str, Any] | None:
            found = self.task
            return found if found["state"] in states and found["try_number"] >= tries else None

        found = eventually(there, seconds, why=lambda: f"{self.task}\n{self.log()}")
        assert found is not None
        return found

    def clear(self) -> None:
        """What *Clear task* in the UI does."""
        self.stage.airflow.request(
            "POST",
            f"/api/v2/dags/{self.dag_run.dag_id}/clearTaskInstances",
            json={
                "dry_run": False,
                "dag_run_id": self.dag_run.run_id,
                "task_ids": ["train"],
                "only_failed": False,
                "reset_dag_runs": True,
            },
        )

    def mark(self, state: str) -> None:
        """What *Mark as* in the UI does."""
        self.stage.airflow.request("PATCH", f"{self._path}/taskInstances/train", json={"new_state": state})

    def log(self) -> str:
        """Of the newest tries."""
        tries = self.task["try_number"]
        return "\n".join(
            self.stage.airflow.log(self.dag_run, "train", n)[-3000:] for n in range(max(1, tries - 1), tries + 1)
        )

    @property
    def _path(self) -> str:
        return f"/api/v2/dags/{self.dag_run.dag_id}/dagRuns/{self.dag_run.run_id}"

    # -- its job ----------------------------------------------------------------------------------------------------

    def attempts(self) -> list[JobHandle]:
        """Every attempt at every site, in whichever epoch: what the job records say."""
        found = []
        for site in self.stage.runtime.topology.sites:
            folder = self.stage.sandbox.paths.state / "jobs" / site
            for handle in sorted(folder.glob(f"{self.run}.e*/attempt-*/handle.json")):
                attempt = handle.parent
                facts = json.loads(handle.read_text())
                reference = {"folder": str(attempt), "attempt": int(attempt.name.removeprefix("attempt-"))}
                reference |= {name: facts[name] for name in ("pid", "started", "boot", "host")}
                found.append(JobHandle("process", site, attempt.parent.name, reference))
        return found

    def alive(self) -> list[JobHandle]:
        """The attempts whose session has a living process."""
        return [
            one
            for one in self.attempts()
            if session_members(int(one.reference["pid"]), str(one.reference["started"]), str(one.reference["boot"]))
        ]

    def state_of(self, attempt: JobHandle) -> JobState:
        return self.stage.runtime.backend(attempt.site).status(attempt).state

    def processes(self) -> list[str]:
        """A line per trainer that ever started: epoch, site, pid."""
        file = self.stage.folder / f"{self.run}.started"
        return file.read_text().splitlines() if file.exists() else []

    # -- what lies in the bucket --------------------------------------------------------------------------------------

    def manifests(self, site: str = AWS) -> list[CheckpointManifest]:
        """By step; two of one step would both be there, for the epoch is in the key."""
        store = self.stage.runtime.store(site)
        keys = sorted(info.key for info in store.list(manifest_prefix(self.run)))
        return [parse_manifest(store.get(key), where=key) for key in keys]

    def wait_checkpoint(self, step: int, site: str = AWS) -> None:
        """Until the site's bucket has this step or a later one."""
        eventually(lambda: any(one.step >= step for one in self.manifests(site)), why=self.log)

    def published(self, site: str = AWS) -> list[CommitRecord]:
        """The models this run published, stale ones as well."""
        model = self.stage.runtime.topology.job(self.job).model
        return [one for one in records(self.stage.runtime.store(site), model) if one.labels.get("run") == self.run]

    def assert_one_writer(self, *, attempts: int, site: str = AWS, left_behind: int = 0) -> None:
        """One line of checkpoints, one model, so many attempts: what the bucket and the job records say, whatever
        Airflow believes.

        Args:
            attempts: of which each wrote after the one before had ended or was fenced.
            left_behind: how many may live on in an epoch that is over, at a site that is cut off.
        """
        line = self.manifests(site)
        assert [one.parent for one in line] == [None, *(one.digest for one in line[:-1])]
        assert [one.epoch for one in line] == sorted(one.epoch for one in line)
        assert line[-1].step == STEPS
        (model,) = self.published(site)
        assert model.labels["model_digest"] == line[-1].model_digest == self.stage.undisturbed
        assert len(self.attempts()) == len(self.processes()) == attempts, self.processes()
        assert len(self.alive()) == left_behind

    def assert_ended_well(self, *, attempts: int = 1, site: str = AWS, left_behind: int = 0) -> None:
        """The task succeeded, and told of the very model that the one writer published."""
        assert self.stage.airflow.wait(self.dag_run, timeout_seconds=120) == "success", self.log()
        result = self.stage.airflow.result(self.dag_run, "train")
        assert (result["run"], result["site"], result["step"]) == (self.run, site, STEPS)
        assert result["model_digest"] == self.stage.undisturbed
        self.assert_one_writer(attempts=attempts, site=site, left_behind=left_behind)
        assert result["snapshot_id"] == self.published(site)[0].snapshot_id


@dataclass
class Stage:
    """Three clouds, an Airflow, and two groups at work. Tests share it: each has runs of its own."""

    folder: Path
    sandbox: Sandbox
    airflow: AirflowStack
    runtime: Runtime
    #: The model of a run that nothing befell.
    undisturbed: str = ""
    trainings: list[Training] = field(default_factory=list)

    def train(self, way: str, name: str, *, group: str = "desk", job: str = "desk-job", upto: int = 4) -> Training:
        """Start a DAG run whose task trains a run of its own, which may go up to a step and waits there."""
        run = f"{group}-{job}.{name}"
        training = Training(self, group, job, run, DagRun("", ""))
        training.allow(upto)
        training.dag_run = self.airflow.trigger(f"train_{way}", {"group": group, "job": job, "run": run})
        self.trainings.append(training)
        return training

    def state(self, group: str) -> EpochState:
        return require_active(self.runtime, group)

    def back_up_metadata(self) -> Path:
        """A copy of Airflow's metadata database as it is now."""
        copy = self.folder / "yesterday.db"
        with (
            closing(sqlite3.connect(self.airflow.state / "airflow.db")) as source,
            closing(sqlite3.connect(copy)) as to,
        ):
            source.backup(to)
        return copy

    def restore_metadata(self, copy: Path) -> None:
        """What somebody does who has nothing newer: stop Airflow, put the copy in place, start it again."""
        self.airflow.down()
        database = self.airflow.state / "airflow.db"
        for left in database.parent.glob("airflow.db-*"):
            left.unlink()
        shutil.copy(copy, database)
        self.airflow.start()
        self.airflow.wait_healthy()

    def stop_jobs(self) -> None:
        """A training outlives its task on purpose, so it also would outlive its test."""
        for training in self.trainings:
            for attempt in training.alive():
                self.runtime.backend(attempt.site).stop(attempt, grace_seconds=0.5)


def set_stage(folder: Path, settings: Mapping[str, Mapping[str, object]]) -> Iterator[Stage]:
    """Bring everything up, and down again.

    Args:
        settings: Airflow's configuration beyond what `AirflowStack` says, by section.
    """
    (folder / "dags").mkdir()
    (folder / "dags" / "trains.py").write_text(DAG_FILE)
    sandbox = Sandbox(folder / "sandbox", topology=write_topology(folder), owner_pid=os.getpid())
    airflow = AirflowStack(folder / "airflow", {}, dags=folder / "dags", plugins=ROOT / "plugins")
    stage = None
    try:
        sandbox.up(timeout=180, agents=True)
        environ = sandbox.environment()
        airflow.environment = environ | {
            f"AIRFLOW__{section.upper()}__{key.upper()}": str(value)
            for section, options in settings.items()
            for key, value in options.items()
        }
        airflow.prepare()
        airflow.start()
        runtime = Runtime.from_environment(environ={**os.environ, **environ})
        stage = Stage(folder, sandbox, airflow, runtime)
        for group in runtime.topology.groups:
            runtime.authority(group).advance(group, expected_epoch=0, active_site=AWS, plan_id="init", reason="test")
            runtime.store(AWS).put(f"data/{group}-data/part.parquet", rows())
            publish_dataset(runtime, group, f"{group}-data")
            assert all(one.ok for one in protect_group(runtime, group, require_active(runtime, group)))
        airflow.wait_healthy()
        yield stage
    finally:
        airflow.down()
        if stage is not None:
            stage.stop_jobs()
        sandbox.down()


def api_answers(stage: Stage) -> bool:
    """Whether the API server lets somebody in."""
    try:
        stage.airflow.request("GET", "/api/v2/dags")
    except (httpx.HTTPError, SandboxNotUp, AirflowRefused):
        return False
    return True
