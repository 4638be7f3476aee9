"""A training task that waits in its worker, in a real Airflow: what a kill and an old database leave behind."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from holdfast.sandbox import Sandbox
from training_world import TrainingWorld, make_training_world

#: A process has no page of its own, so this file gives it one: what is tested is that Airflow gets what a backend says.
PLAIN = """
from datetime import timedelta
from airflow.sdk import DAG
from holdfast.engine.compute import ProcessBackend
from holdfast.operators.assets import FINISHED_TRAINING
from holdfast.operators.training import TrainOperator

ProcessBackend.links = lambda self, handle: {"logs": f"https://logs.invalid/{handle.name}"}

with DAG("train_once", schedule=None, catchup=False, default_args={"retries": 2, "retry_delay": timedelta(seconds=1)}):
    TrainOperator(
        task_id="train", group="GROUP", job="job-x", run="GROUP-job-x.one", poll_seconds=0.1, deferrable=False,
        outlets=[FINISHED_TRAINING],
    )
"""


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> Iterator[TrainingWorld]:
    made = make_training_world(sandbox, tmp_path, PLAIN)
    yield made
    made.finish(1)


def rows(world: TrainingWorld, query: str) -> list[Any]:
    with closing(sqlite3.connect(world.folder / "airflow" / "airflow.db")) as database:
        return [json.loads(value) for (value,) in database.execute(query)]


def test_a_killed_worker_leaves_the_job_and_the_next_try_tells_asset_and_links(
    world: TrainingWorld, start_dag, eventually
):
    first = start_dag(world.dag, "train_once", **world.environ)
    eventually(lambda: "step 1 of 2" in first.text, 120)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert world.status() == "running"
    world.finish()
    result = start_dag(world.dag, "train_once", **world.environ).result()
    assert result["state"] == "success"
    assert len(world.jobs()) == 1
    (extra,) = rows(world, "select extra from asset_event")
    assert extra == extra | {
        "run": f"{world.group}-job-x.one",
        "step": 2,
        "model_digest": "blake3:00",
        "checkpoint": None,
        "epoch": 1,
        "site": "aws-eu-west-1",
        "group": world.group,
        "job": "job-x",
    }
    links = rows(world, "select value from xcom where key = '_link_JobLogsLink'")
    assert links == [f"https://logs.invalid/{world.group}-job-x.one.e1"]
    assert rows(world, "select value from xcom where key = '_link_JobConsoleLink'") == [""]


@pytest.mark.slow
def test_a_database_of_yesterday_knows_no_job_and_none_is_started_twice(world: TrainingWorld, start_dag, eventually):
    database, yesterday = world.folder / "airflow" / "airflow.db", world.folder / "yesterday.db"
    shutil.copy(database, yesterday)
    first = start_dag(world.dag, "train_once", **world.environ)
    eventually(lambda: "step 1 of 2" in first.text, 120)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert known_jobs(database) == 1
    for left in database.parent.glob("airflow.db-*"):
        left.unlink()
    shutil.copy(yesterday, database)
    assert known_jobs(database) == 0
    second = start_dag(world.dag, "train_once", **world.environ)
    eventually(lambda: "step 1 of 2" in second.text, 120)
    assert len(world.jobs()) == 1
    world.finish()
    assert second.result()["state"] == "success"
    assert len(world.jobs()) == 1
    # And once more, as somebody does who clears a task that ended well.
    third = start_dag(world.dag, "train_once", **world.environ).result()
    assert third["tasks"]["train"]["result"] == second.result()["tasks"]["train"]["result"]
    assert len(world.jobs()) == 1


def known_jobs(database: Path) -> int:
    """Entries of the task state store."""
    with closing(sqlite3.connect(database)) as opened:
        found: int = opened.execute("select count(*) from task_state_store").fetchone()[0]
        return found
