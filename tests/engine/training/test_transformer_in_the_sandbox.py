"""The example transformer as a job of a group: killed, or its cloud lost, it ends with the plain run's bytes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.training.killing import EXAMPLES, trained
from engine.training.manual import as_the_manual_says
from holdfast.engine.compute import JobState
from holdfast.engine.pipeline import publish_dataset
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import latest, open_snapshot
from holdfast.sandbox import Sandbox
from holdfast.sandbox.scene import set_scene

pytestmark = [pytest.mark.torch, pytest.mark.sandbox, pytest.mark.timeout(600)]
pytest.importorskip("torch")
pytest.importorskip("arch")

AWS, GCP = "aws-eu-west-1", "gcp-europe-west1"
JOB, STEPS = "volatility-transformer", 80
PROGRAM = "from holdfast.cli.main import main; main()"


class World:
    """The example's group under a name of its own in the sandbox, its job shortened, its data published."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.group = f"g-{uuid.uuid4().hex[:8]}"
        self.run = f"{self.group}-{JOB}.one"
        (folder / "training").symlink_to(EXAMPLES)
        topology = yaml.safe_load(Path(sandbox.environment()["HOLDFAST_TOPOLOGY"]).read_text())
        as_the_manual_says(topology)
        settings = topology["groups"].pop("market-risk")
        data = f"{self.group}-data"
        topology["datasets"] = {data: {"path": data, "residency": "eu-only"}}
        topology["services"] = {}
        for job in topology["training"].values():
            job |= {"dataset": data, "model": f"{self.group}-{job['model']}", "steps": STEPS, "step_seconds": 0.1}
        topology["groups"] = {self.group: {**settings, "datasets": [data], "services": []}}
        (folder / "topology.yaml").write_text(yaml.safe_dump(topology))
        self.environ = {
            **os.environ,
            **sandbox.environment(),
            "HOLDFAST_TOPOLOGY": str(folder / "topology.yaml"),
        }
        self.runtime = Runtime.from_environment(folder / "topology.yaml", self.environ)
        self.runtime.authority(self.group).advance(
            self.group, expected_epoch=0, active_site=AWS, plan_id="init", reason="test"
        )
        self.model = self.runtime.topology.job(JOB).model
        prepare_data().put(self.runtime.store(AWS), data)
        publish_dataset(self.runtime, self.group, data)
        self.backend = self.runtime.backend(AWS)

    def holdfast(self, *words: str) -> Any:
        command = [sys.executable, "-c", PROGRAM, "train", *words, "--json"]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr + self.log()
        return json.loads(done.stdout)

    def start_and_kill(self, *, durable_step: int) -> None:
        """Start the run, or go on with it; SIGKILL for everything of its session once a checkpoint is durable."""
        assert self.holdfast("run", self.group, JOB, "--run", self.run)["state"] == "running"
        handle = self.backend.find(f"{self.run}.e1")
        assert handle is not None
        wait_for(lambda: self.saved(handle) >= durable_step)
        assert self.backend.status(handle).state is JobState.RUNNING, self.log()
        os.killpg(int(handle.reference["pid"]), signal.SIGKILL)
        wait_for(lambda: self.backend.confirm_dead(handle))

    def saved(self, handle: Any) -> int:
        beat = self.backend.heartbeat(handle) or {}
        return int((beat.get("checkpoint") or {"step": 0})["step"])

    def log(self) -> str:
        handle = self.backend.find(f"{self.run}.e1")
        return "" if handle is None else self.backend.log(handle)

    def stop(self) -> None:
        handle = self.backend.find(f"{self.run}.e1")
        if handle is not None:
            self.backend.stop(handle, grace_seconds=0.5)


def prepare_data() -> Any:
    spec = importlib.util.spec_from_file_location("example_prepare_data", EXAMPLES / "prepare_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wait_for(condition: Callable[[], Any], *, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> Iterator[World]:
    made = World(sandbox, tmp_path)
    yield made
    made.stop()


def test_a_group_that_names_the_job_trains_it_through_two_kills_to_the_plain_runs_model(
    world: World, tmp_path: Path
) -> None:
    world.start_and_kill(durable_step=20)
    world.start_and_kill(durable_step=40)
    found = world.holdfast("run", world.group, JOB, "--run", world.run, "--wait")
    assert f"of {STEPS}, bitwise, from epoch 1" in world.log()
    assert (found["state"], found["step"], found["model"], found["site"]) == ("succeeded", STEPS, world.model, AWS)
    assert found["checkpoint"].startswith("blake3:")

    for site in (AWS, GCP):
        record = latest(world.runtime.store(site), world.model, epoch=1)
        assert record is not None, site
        assert record.labels["model_digest"] == found["model_digest"]
        published = open_snapshot(world.runtime.store(site), record)

    data = tmp_path / "data"
    prepare_data().write(data)
    seed = str(world.runtime.topology.job(JOB).seed)
    plain = ("--folder", str(tmp_path / "plain"), "--data", str(data), "--steps", str(STEPS), "--seed", seed)
    assert found["model_digest"] in trained("volatility_transformer.py", *plain)
    for name in ("model.safetensors", "features.json"):
        assert published.read(name) == (tmp_path / "plain" / "model" / name).read_bytes()


@pytest.mark.alone
@pytest.mark.timeout(900)
def test_a_drill_takes_it_to_another_cloud_where_it_ends_as_the_plain_run_does(tmp_path: Path) -> None:
    for name in ("training", "expectations"):
        (tmp_path / name).symlink_to(EXAMPLES.parent / name)
    topology = yaml.safe_load((EXAMPLES.parent / "holdfast.yaml").read_text())
    as_the_manual_says(topology)
    (tmp_path / "topology.yaml").write_text(yaml.safe_dump(topology))
    box = Sandbox(tmp_path / "state", topology=tmp_path / "topology.yaml", owner_pid=os.getpid())
    try:
        box.up(timeout=120, agents=True)
        environ = {**os.environ, **box.environment()}
        runtime = Runtime.from_environment(environ=environ)
        set_scene(runtime, "market-risk")
        try:
            command = [sys.executable, "-c", PROGRAM, "drill", "run", "site-outage", "--json"]
            done = subprocess.run(
                command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False
            )
            assert done.returncode == 0, done.stderr
            journal = json.loads(done.stdout)
            (found,) = [one for one in journal["training"] if one["job"] == JOB]
            log = log_of(runtime, GCP, f"{found['run']}.e2")
        finally:
            stop_jobs(runtime, box)
    finally:
        box.down()
    assert journal["verdict"]["passed"]
    assert journal["verdict"]["model_identical"]
    assert found["resumed_from_step"] > 0
    assert f"step {found['resumed_from_step']} of 300, bitwise, from epoch 1" in log
    assert found["model_digest"] in trained("volatility_transformer.py", "--folder", str(tmp_path / "plain"))


def log_of(runtime: Runtime, site: str, name: str) -> str:
    backend = runtime.backend(site)
    handle = backend.find(name)
    assert handle is not None
    return backend.log(handle)


def stop_jobs(runtime: Runtime, box: Sandbox) -> None:
    """Whatever still runs, e.g. after a drill that failed, ends with its test."""
    for site in runtime.topology.sites:
        backend = runtime.backend(site)
        for folder in (box.paths.state / "jobs" / site).glob("*.e*"):
            if handle := backend.find(folder.name):
                backend.stop(handle, grace_seconds=0.5)
