"""A site whose jobs run in the stub of a cluster, and a trainer that does as it is told."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.compute import JobHandle, JobSpec, JobState, open_backend
from holdfast.engine.compute.kubernetes import KubernetesBackend
from holdfast.engine.config import load_topology
from holdfast.engine.objectstore import local_store
from kubernetes_server import KubernetesServer

TRAINER = '''
"""Beats once, then does what its argument says."""
import json, os, pathlib, signal, sys, time

what = sys.argv[1]
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
topology = pathlib.Path(os.environ["HOLDFAST_TOPOLOGY"]).read_text()
beat = pathlib.Path(os.environ["BUCKET"], os.environ["HOLDFAST_HEARTBEAT"].removeprefix("object:"))


def write(state):
    beat.parent.mkdir(parents=True, exist_ok=True)
    facts = {"state": state, "step": 7, "total_steps": 9, "at": "2026-01-01T00:00:00.000000Z"}
    beat.with_suffix(".new").write_text(json.dumps(facts | {"environ": dict(os.environ), "topology": topology}))
    beat.with_suffix(".new").replace(beat)


write("training")
print("the trainer says", what, flush=True)
if what == "until-told":
    while not told:
        time.sleep(0.02)
    write("stopped")
    sys.exit(75)
while what == "stubborn":
    time.sleep(0.02)
sys.exit(int(what))
'''
RUN = "Market_Data.volatility.2026-01-01"


class World:
    """A cluster, a site and its bucket."""

    def __init__(self, folder: Path) -> None:
        self.image, self.bucket = folder / "image", folder / "bucket"
        self.image.mkdir()
        self.bucket.mkdir()
        (self.image / "train.py").write_text(TRAINER)
        (folder / "site.env").write_text(f"BUCKET={self.bucket}\nTOKEN='a$(HOSTNAME)b'\n")
        self.server = KubernetesServer(self.image, folder / "pods")
        self.environment_file: str | None = str(folder / "site.env")
        self.settings: dict[str, Any] = {"image": "trainer:1", "requests": {"cpu": "500m", "memory": "1Gi"}}
        self.clock: Any = SystemClock()
        self.url = self.server.url
        self.bucket_name = "b"
        self.store: Any = local_store("bucket", self.bucket)

    def backend(self, **settings: Any) -> KubernetesBackend:
        compute = {
            "kind": "kubernetes",
            "environment_file": self.environment_file,
            "kubernetes": self.settings | settings,
        }
        site = {
            "cloud": "gcp",
            "region": "europe-west4",
            "jurisdiction": "EU",
            "connection": "c",
            "bucket": self.bucket_name,
            "compute": compute,
        }
        path = self.image / "topology.yaml"
        path.write_text(json.dumps({"version": 1, "sites": {"here": site}, "groups": {}}))
        topology = load_topology(path, {})
        backend = open_backend(
            "here",
            topology.site("here"),
            topology=topology,
            environ={},
            clock=self.clock,
            store=lambda: self.store,
            connection=lambda: pytest.fail("a client is given"),
            client=self.client,
        )
        assert isinstance(backend, KubernetesBackend)
        return backend

    def client(self) -> Any:
        from kubernetes import client

        configuration = client.Configuration()
        configuration.host = self.url
        return client.ApiClient(configuration)

    def spec(self, what: str, **changes: Any) -> JobSpec:
        contract = {"HOLDFAST_TOPOLOGY": str(self.image / "topology.yaml"), "HOLDFAST_RUN": RUN, "ODD": "$(PATH) $$ $"}
        spec = JobSpec(RUN, 3, "here", (sys.executable, "-u", str(self.image / "train.py"), what), contract)
        return replace(spec, **changes)

    def pods(self) -> list[str]:
        return list(self.server.objects["pods"])

    def jobs(self) -> list[str]:
        return list(self.server.objects["jobs"])


def until(what: Callable[[], Any]) -> Any:
    """Wait for what another process does."""
    deadline = time.monotonic() + 60
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
    return found


def ended(backend: KubernetesBackend, handle: JobHandle) -> Any:
    return until(
        lambda: (status := backend.status(handle)).state not in (JobState.PENDING, JobState.RUNNING) and status
    )


def begun(backend: KubernetesBackend, handle: JobHandle) -> None:
    until(lambda: backend.heartbeat(handle))
