"""The training operator against real stores, a real register and real processes: one job, whatever befalls the task."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.checkpoint import fork_run
from holdfast.engine.replication import replicate
from holdfast.engine.snapshot import keys, latest
from holdfast.engine.snapshot.lineage import new_fork, write_fork
from holdfast.sandbox import Sandbox
from holdfast.triggers.training import TrainingJobTrigger
from training_world import TrainingWorld, make_training_world


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> Iterator[TrainingWorld]:
    made = make_training_world(sandbox, tmp_path)
    yield made
    made.finish(1)


def test_it_defers_waits_and_reports_the_published_model(world: TrainingWorld, start_dag: Callable[..., Any]):
    world.finish()
    result = start_dag(world.dag, "train_once", **world.environ).result()
    assert result["state"] == "success"
    found = result["tasks"]["train"]["result"]
    assert found == {
        "run": f"{world.group}-job-x.one",
        "epoch": 1,
        "site": "aws-eu-west-1",
        "model": f"{world.group}-model",
        "snapshot_id": found["snapshot_id"],
        "step": 2,
        "model_digest": "blake3:00",
        "checkpoint": None,  # this trainer saves none
    }
    assert len(world.jobs()) == 1


def test_a_killed_task_leaves_the_job_and_the_next_one_finds_it(world: TrainingWorld, start_dag, eventually):
    first = start_dag(world.dag, "train_once", **world.environ)
    eventually(lambda: "trigger" in first.text and world.jobs(), 120)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert world.status() == "running"
    world.finish()
    result = start_dag(world.dag, "train_once", **world.environ).result()
    assert result["state"] == "success"
    assert len(world.jobs()) == 1


@pytest.mark.slow
def test_a_killed_job_is_started_again_within_the_try(world: TrainingWorld, start_dag, eventually):
    running = start_dag(world.dag, "train_once", **world.environ)
    pid = int(eventually(world.jobs, 120)[0].split()[-1])
    eventually(lambda: world.status() == "running")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(world.jobs()) == 2, 120)
    world.finish()
    result = running.result()
    assert (result["state"], result["tasks"]["train"]["tries"]) == ("success", 1)
    assert "attempt 2: submitted at the site's own machine" in running.text


@pytest.mark.slow
def test_a_job_that_fails_by_itself_is_not_retried(world: TrainingWorld, start_dag):
    world.finish(3)
    running = start_dag(world.dag, "train_once", **world.environ)
    result = running.result()
    assert (result["state"], result["tasks"]["train"]["tries"]) == ("failed", 1)
    assert "the training job failed" in running.text
    assert len(world.jobs()) == 1


def test_after_a_failover_the_task_finds_the_run_at_the_other_site(world: TrainingWorld, start_dag, eventually):
    running = start_dag(world.dag, "train_once", **world.environ)
    eventually(lambda: world.jobs() and world.status() == "running", 120)
    fail_over_by_hand(world)
    os.kill(int(world.jobs()[0].split()[-1]), signal.SIGKILL)
    eventually(lambda: len(world.jobs()) == 2, 120)
    assert world.jobs()[1].split()[1] == "e2"
    world.finish()
    found = running.result()["tasks"]["train"]
    assert (found["state"], found["tries"]) == ("success", 1)
    assert (found["result"]["epoch"], found["result"]["site"]) == (2, "gcp-europe-west1")


def fail_over_by_hand(world: TrainingWorld) -> None:
    """What a plan does to a group with one dataset and one run without a checkpoint."""
    runtime, group, target, dataset = world.runtime, world.group, "gcp-europe-west1", f"{world.group}-data"
    old, new = runtime.store("aws-eu-west-1"), runtime.store(target)
    record = latest(old, dataset, epoch=1)
    replicate(
        old,
        new,
        record=record,
        source_site="aws-eu-west-1",
        target_site=target,
        residency=None,
        topology_sites=runtime.topology.sites,
        clock=runtime.clock,
    )
    runtime.authority(group).advance(group, expected_epoch=1, active_site=target, plan_id="p", reason="test")
    facts = {"epoch": 2, "parent_epoch": 1, "site": target, "plan_id": "p", "holder": "test", "reason": "test"}
    write_fork(
        new,
        keys.root(dataset),
        new_fork(dataset, forked_from=record.snapshot_id, created_at=runtime.clock.now(), **facts),
    )
    fork_run(new, f"{group}-job-x.one", election=None, clock=runtime.clock, **facts)


def test_a_trigger_is_made_again_from_what_it_serialises():
    handle = {"backend": "process", "site": "s", "name": "n.e1", "reference": {"pid": 1}}
    path, arguments = TrainingJobTrigger(site="s", handle=handle, poll_seconds=0.5).serialize()
    assert path == "holdfast.triggers.training.TrainingJobTrigger"
    assert TrainingJobTrigger(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)
