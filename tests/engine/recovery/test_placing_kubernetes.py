"""Placing jobs of a cluster: a pod nobody can schedule is left for the next placement, a preempted one leaves spot."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.compute import JobState
from holdfast.engine.compute.attempts import Attempts
from holdfast.engine.compute.kubernetes import KubernetesBackend
from holdfast.engine.config.models import Topology
from holdfast.engine.recovery.placing import Placed, Wanted, place
from kubernetes_world import World, begun, ended, until
from placing_world import GROUP, JOB, RUN, document

WANTED = Wanted(GROUP, JOB, RUN, 1, "here", None)
SPOT_NODES = {"cloud.google.com/gke-spot": "true"}


@dataclass
class Cluster:
    """What `place` needs of the world, over the stub."""

    world: World
    topology: Any
    backend_: KubernetesBackend
    clock: Any
    holder: str = "starter"

    @property
    def environ(self) -> dict[str, str]:
        return {}

    def store(self, _site: str) -> Any:
        return self.world.store

    def backend(self, _site: str) -> KubernetesBackend:
        return self.backend_

    def placed(self) -> Placed:
        found = place(self, WANTED)  # type: ignore[arg-type]
        assert isinstance(found, Placed), found
        return found

    def nodes(self) -> list[dict[str, str]]:
        """The node selectors of the pods, oldest first."""
        return [pod["spec"]["nodeSelector"] for pod in self.world.server.objects["pods"].values()]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    it = World(tmp_path)
    yield it
    it.server.stop()


def cluster(world: World, placements: list[dict[str, Any]], recovery: str) -> Cluster:
    backend = world.backend(spot_node_selector=SPOT_NODES)
    site = {"cloud": "gcp", "region": "r", "jurisdiction": "EU", "connection": "c", "bucket": "b"}
    command = [sys.executable, "-u", str(world.image / "train.py"), "until-told"]
    topology = Topology.model_validate(document("here", site, command, placements, recovery))
    return Cluster(world, topology, backend, SystemClock())


def test_a_pod_that_nobody_can_schedule_is_left_for_the_next_placement(world: World) -> None:
    world.server.schedulable = False
    it = cluster(world, [{"machine": "g", "spot": True, "wait_seconds": 0.2}, {"machine": "n"}], "next-placement")
    first = it.placed()
    assert it.backend_.status(first.handle).state is JobState.PENDING
    second = until(lambda: (found := it.placed()).attempt == 2 and found)
    assert second.placement.machine == "n"
    end = Attempts(world.store, WANTED.run, 1, holder="test").end_of(1)
    assert end is not None
    assert end.state is JobState.NO_CAPACITY
    assert "Insufficient nvidia.com/gpu" in str(end.detail)
    assert it.nodes() == [{"node.kubernetes.io/instance-type": "n"}]
    world.server.schedule()
    begun(it.backend_, second.handle)
    assert it.placed().handle == second.handle


def test_a_preempted_job_goes_on_at_a_machine_that_stays(world: World) -> None:
    placements = [{"machine": "g", "spot": True}, {"machine": "h", "spot": True}, {"machine": "n"}]
    it = cluster(world, placements, "on-demand-after-preemption")
    first = it.placed()
    begun(it.backend_, first.handle)
    world.server.evict(*world.pods(), grace_seconds=20)
    assert ended(it.backend_, first.handle).state is JobState.PREEMPTED
    second = it.placed()
    assert (second.attempt, second.placement.machine, second.placement.spot) == (2, "n", False)
    begun(it.backend_, second.handle)
    assert it.nodes() == [
        {**SPOT_NODES, "node.kubernetes.io/instance-type": "g"},
        {"node.kubernetes.io/instance-type": "n"},
    ]
    assert second.handle.attempt == 2


def test_a_queue_that_never_lets_in_is_left_once(world: World) -> None:
    it = cluster(world, [{"machine": "g", "wait_seconds": 0.2}, {"machine": "n"}], "next-placement")
    it.backend_ = world.backend(kueue_queue="team")
    first = it.placed()
    assert it.backend_.status(first.handle).state is JobState.PENDING
    second = until(lambda: (found := it.placed()).attempt == 2 and found)
    assert second.placement.machine == "n"
    assert second.handle.attempt > first.handle.attempt
    third = it.placed()
    assert third.handle == second.handle
    assert not third.submitted
