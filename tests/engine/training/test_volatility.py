"""The example training: killed at any step, moved to another site, its newest checkpoint damaged — the same bytes."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.checkpoint import elect, fork_run, replicate_checkpoint
from holdfast.engine.checkpoint.format import blob_key, parse_manifest
from holdfast.engine.compute import JobHandle, JobState, ProcessBackend, job_spec
from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.objectstore import ObjectStore, local_store
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import latest, open_snapshot, take_and_publish

REPOSITORY = Path(__file__).parents[3]
STEPS, EVERY = 40, 5
pytest.importorskip("xgboost")
pytest.importorskip("arch")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", REPOSITORY / "include" / "training" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wait_for(condition: Callable[[], Any], *, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


class World:
    """Three sites in local folders, the example's data at two of them, and jobs that write into scratch folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "training").mkdir()
        for name in ("volatility.py", "prepare_data.py"):
            (folder / "training" / name).symlink_to(REPOSITORY / "include" / "training" / name)
        sites = {
            f"site-{x}": {
                "cloud": "local",
                "region": "here",
                "jurisdiction": "EU",
                "connection": "local",
                "bucket": str(folder / x),
            }
            for x in "abc"
        }
        for x in "abc":
            (folder / x).mkdir()
        (folder / "topology.yaml").write_text(
            json.dumps(
                {
                    "version": 1,
                    "sites": sites,
                    "datasets": {"market-data": {"path": "market-data"}},
                    "training": {
                        "volatility": {
                            "dataset": "market-data",
                            "model": "volatility-model",
                            "command": ["{python}", "training/volatility.py"],
                            "steps": STEPS,
                            "checkpoint_every_steps": EVERY,
                            "seed": 20081015,
                            "step_seconds": 0.1,
                        }
                    },
                    "groups": {
                        "market-risk": {
                            "owner": "test",
                            "tier": 1,
                            "objectives": {"rpo_seconds": 30, "rto_seconds": 60},
                            "sites": {"active": "site-a", "standby": ["site-b"], "witness": ["site-c"]},
                            "datasets": ["market-data"],
                            "training": ["volatility"],
                        }
                    },
                }
            )
        )
        # Whether a killed interpreter left half a cache beside the source is not this test's business.
        self.environ = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ} | {
            "AIRFLOW_CONN_LOCAL": '{"conn_type": "generic"}',
            "HOLDFAST_STATE": str(folder / "state"),
        }
        self.topology = load_topology(folder / "topology.yaml", self.environ)
        self.runtime = Runtime(self.topology, EnvironmentConnections(self.environ), environ=self.environ)
        data = load("prepare_data")
        for site in ("site-a", "site-b"):
            data.put(self.runtime.store(site))
            take_and_publish(
                self.runtime.store(site),
                dataset="market-data",
                path="market-data",
                epoch=1,
                site=site,
                clock=SystemClock(),
            )

    def backend(self, site: str) -> ProcessBackend:
        return self.runtime.backend(site)

    def scratch(self, name: str) -> ObjectStore:
        (self.folder / "scratch" / name).mkdir(parents=True, exist_ok=True)
        return local_store(name, self.folder / "scratch" / name)

    def submit(self, site: str, scratch: str, *, run: str = "run", epoch: int = 1, paced: bool = True) -> JobHandle:
        data = latest(self.runtime.store(site), "market-data", epoch=1)
        assert data is not None
        spec = job_spec(
            self.topology,
            "market-risk",
            "volatility",
            run=run,
            epoch=epoch,
            site=site,
            dataset_snapshot=data.snapshot_id,
            environ={} if paced else {"HOLDFAST_STEP_SECONDS": "0"},
        )
        self.scratch(scratch)
        return self.backend(site).submit(
            replace(spec, environment={**spec.environment, "HOLDFAST_SCRATCH": str(self.folder / "scratch" / scratch)})
        )

    def kill_at(self, site: str, handle: JobHandle, step: int) -> None:
        backend = self.backend(site)
        wait_for(lambda: (backend.status(handle).step or 0) >= step or self.ended(site, handle))
        assert backend.status(handle).state is JobState.RUNNING, backend.log(handle)
        os.killpg(int(handle.reference["pid"]), signal.SIGKILL)
        wait_for(lambda: backend.confirm_dead(handle))

    def ended(self, site: str, handle: JobHandle) -> bool:
        return self.backend(site).status(handle).state is not JobState.RUNNING

    def finish(self, site: str, handle: JobHandle) -> str:
        """Wait for its end; the digest of the model it published."""
        wait_for(lambda: self.ended(site, handle))
        backend = self.backend(site)
        assert backend.status(handle).state is JobState.SUCCEEDED, backend.log(handle)
        beat = backend.heartbeat(handle)
        assert beat is not None
        return str(beat["published"]["model_digest"])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_run_killed_twice_and_moved_over_a_damaged_checkpoint_ends_with_the_same_bytes(world: World) -> None:
    rng = random.Random()
    first, second = rng.randint(EVERY * 2, STEPS - 12), rng.randint(2, STEPS - 12)
    print(f"killed at steps {first} and {second}")
    clock, here, there = SystemClock(), world.scratch("here"), world.scratch("there")

    reference = world.submit("site-a", "reference", run="reference", paced=False)
    job = world.submit("site-a", "here")
    world.kill_at("site-a", job, first)

    # The other site has every checkpoint, and the newest of them is damaged there.
    source = elect(here, "run", epoch=1)
    assert source.manifest is not None
    for info in here.list("runs/run/checkpoints/"):
        replicate_checkpoint(here, there, "run", parse_manifest(here.get(info.key), where=info.key), site="site-b")
    fork_run(
        there,
        "run",
        epoch=2,
        parent_epoch=1,
        election=elect(there, "run", epoch=1),
        site="site-b",
        plan_id="plan",
        holder="test",
        reason="test",
        clock=clock,
    )
    key = blob_key("run", source.manifest.model_digest)
    damaged = bytearray(there.get(key))
    damaged[len(damaged) // 2] ^= 1
    there.put(key, bytes(damaged))

    job = world.submit("site-b", "there", epoch=2)
    world.kill_at("site-b", job, max(second, source.step - EVERY + 2))
    again = world.submit("site-b", "there", epoch=2)
    assert again.reference["attempt"] == 2
    digest = world.finish("site-b", again)

    assert digest == world.finish("site-a", reference)
    model = latest(there, "volatility-model", epoch=2)
    assert model is not None
    assert model.labels["model_digest"] == digest
    assert int(model.labels["step"]) == STEPS
    described = json.loads(open_snapshot(there, model).read("features.json"))
    golden = json.loads((REPOSITORY / "include" / "training" / "golden.json").read_text())
    assert golden["features"] == described["features"]
    assert all(len(row) == len(described["features"]) for row in golden["instances"])


def test_the_dataset_has_the_same_bytes_each_time_and_no_row_from_the_future() -> None:
    data = load("prepare_data")
    files = data.files()
    assert files == data.files()
    assert len(files) == 20
    days = data.frame()
    assert days.index.is_monotonic_increasing
    assert (days[data.TARGET].iloc[:-1].to_numpy() == days["range_1d"].iloc[1:].to_numpy()).all()
