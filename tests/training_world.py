"""A group of its own in the sandbox, with a training job that does what a test says."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from holdfast.engine.pipeline import publish_dataset
from holdfast.engine.runtime import Runtime
from holdfast.sandbox import Sandbox

TRAINER = Path(__file__).parent / "dags" / "fake_trainer.py"
DAG_FILE = """
from datetime import timedelta
from airflow.sdk import DAG
from holdfast.operators.training import TrainOperator

with DAG("train_once", schedule=None, catchup=False, default_args={"retries": 2, "retry_delay": timedelta(seconds=1)}):
    TrainOperator(task_id="train", group="GROUP", job="job-x", run="GROUP-job-x.one", poll_seconds=0.1)
"""


@dataclass
class TrainingWorld:
    """A group of its own in the sandbox, whose training job does what the test says."""

    folder: Path
    group: str
    runtime: Runtime
    environ: dict[str, str]

    @property
    def dag(self) -> Path:
        return self.folder / "dags" / "train_once.py"

    def jobs(self) -> list[str]:
        """A line per started process: run, epoch, pid."""
        file = self.folder / "started"
        return file.read_text().splitlines() if file.exists() else []

    def finish(self, code: int = 0) -> None:
        """Let the job, now or when it starts, end with this exit code."""
        (self.folder / "finish.new").write_text(str(code))
        (self.folder / "finish.new").replace(self.folder / "finish")

    def status(self, epoch: int = 1, site: str = "aws-eu-west-1") -> Any:
        backend = self.runtime.backend(site)
        handle = backend.find(f"{self.group}-job-x.one.e{epoch}")
        return None if handle is None else backend.status(handle).state


def make_training_world(sandbox: Sandbox, folder: Path, dag: str | None = None) -> TrainingWorld:
    """A topology, a register and a dataset for one group, and a DAG file (``GROUP`` in it is the group's name).

    Whoever makes it calls ``finish(1)`` at the end, so that no job outlives its test.
    """
    group = f"g-{uuid.uuid4().hex[:8]}"
    topology = yaml.safe_load(Path(sandbox.environment()["HOLDFAST_TOPOLOGY"]).read_text())
    topology["datasets"] = {f"{group}-data": {"path": f"{group}-data"}}
    topology["services"] = {}
    topology["training"] = {
        "job-x": {
            "dataset": f"{group}-data",
            "model": f"{group}-model",
            "steps": 2,
            "checkpoint_every_steps": 1,
            "command": ["{python}", str(TRAINER), str(folder), f"{group}-model"],
        }
    }
    topology["groups"] = {
        group: {
            **topology["groups"]["market-risk"],
            "datasets": [f"{group}-data"],
            "training": ["job-x"],
            "services": [],
        }
    }
    (folder / "topology.yaml").write_text(yaml.safe_dump(topology))
    (folder / "dags").mkdir()
    (folder / "dags" / "train_once.py").write_text((dag or DAG_FILE).replace("GROUP", group))
    environ = {**sandbox.environment(), "HOLDFAST_TOPOLOGY": str(folder / "topology.yaml")}
    runtime = Runtime.from_environment(folder / "topology.yaml", {**os.environ, **environ})
    runtime.authority(group).advance(
        group, expected_epoch=0, active_site="aws-eu-west-1", plan_id="init", reason="test"
    )
    runtime.store("aws-eu-west-1").put(f"data/{group}-data/part.parquet", b"rows")
    publish_dataset(runtime, group, f"{group}-data")
    return TrainingWorld(folder, group, runtime, environ)
