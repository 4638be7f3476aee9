"""A whole world in memory for tests of plans and drills: real stores, real snapshots and checkpoints, a fake clock.

Only what lies outside the buckets is made up: the detector's verdict, DNS, the services and the training processes.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from holdfast.clock import FakeClock
from holdfast.engine.authority import EpochStore, MemoryEpochStore
from holdfast.engine.checkpoint import AlwaysGranted, CheckpointManifest, elect, replicate_checkpoint
from holdfast.engine.checkpoint.commit import write_checkpoint
from holdfast.engine.checkpoint.format import BlobRef, digest_of, model_digest
from holdfast.engine.compute.errors import NoCapacity
from holdfast.engine.compute.interface import BackendCapabilities, JobHandle, JobSpec, JobState, JobStatus
from holdfast.engine.config import Topology, load_topology
from holdfast.engine.config.compute import Placement
from holdfast.engine.config.models import NoCapacityPolicy
from holdfast.engine.health.interface import SiteVerdict, Verdict
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.recovery import protect_group
from holdfast.engine.recovery.interface import Answer
from holdfast.engine.snapshot import latest, put_snapshot, take_and_publish
from holdfast.engine.traffic.interface import StaleTrafficEpoch, TrafficState

AWS, GCP, AZURE = "aws-eu-west-1", "gcp-europe-west1", "azure-westeurope"
GROUP, JOB, SERVICE, DATASET, MODEL, RUN = (
    "market-risk",
    "volatility",
    "volatility-api",
    "market-data",
    "volatility-model",
    "market-risk-volatility",
)
TOPOLOGY = Path(__file__).resolve().parents[1] / "include" / "holdfast.yaml"


def topology_environ() -> dict[str, str]:
    names = [s.upper().replace("-", "_") for s in (AWS, GCP, AZURE)]
    return {
        "HOLDFAST_STATE": "/nonexistent",
        "HOLDFAST_RESOLVER": "127.0.0.1:1",
        **{f"HOLDFAST_SERVICE_{n}": "http://127.0.0.1:1" for n in names},
        **{f"HOLDFAST_SERVICE_PORT_{n}": "1" for n in names},
    }


class Killed(BaseException):
    """The orchestrator dies here: no `Exception`, nothing may handle it."""


class Switchboard:
    """Cuts sites off, and kills the caller at a chosen store operation."""

    def __init__(self) -> None:
        self.cut: set[str] = set()
        self.kill_at: int | None = None
        self.operations = 0
        self._lock = threading.Lock()

    def pass_through(self, site: str) -> None:
        with self._lock:
            self.operations += 1
            if self.kill_at is not None and self.operations >= self.kill_at:
                raise Killed(f"at operation {self.operations}")
        if site in self.cut:
            raise StoreUnavailable("the site is cut off", where=site)


class CutStore:
    """A memory store behind a switchboard."""

    def __init__(self, site: str, board: Switchboard, inner: Any) -> None:
        self._site, self._board, self._inner = site, board, inner

    @property
    def name(self) -> str:
        return self._site

    @property
    def inner(self) -> Any:
        return self._inner

    def capabilities(self) -> Any:
        return self._inner.capabilities()  # asks nobody

    def parts(self) -> None:
        """None: every byte goes through the switchboard."""

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[Any]:
        self._board.pass_through(self._site)
        return self._inner.list(prefix, start_after=start_after)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def passed(*args: Any, **kwargs: Any) -> Any:
            self._board.pass_through(self._site)
            return method(*args, **kwargs)

        return passed


class FakeTraffic:
    """A traffic record with the epoch rule."""

    def __init__(self) -> None:
        self.state: TrafficState | None = None
        self.switches = 0

    def read(self) -> TrafficState | None:
        return self.state

    def switch(self, site: str, *, epoch: int) -> TrafficState:
        if self.state is not None and epoch < self.state.epoch:
            raise StaleTrafficEpoch("stale", expected=f"epoch {self.state.epoch}", found=str(epoch))
        if self.state is None or (self.state.site, self.state.epoch) != (site, epoch):
            self.switches += 1
            self.state = TrafficState(site, epoch, (site,), 1)
        return self.state


class FakeBackend:
    """Training processes that run until a test, or the clock, lets them end.

    ``full`` are the machines there are none of: asking for one starts nothing, as the interface says.
    """

    def __init__(self, world: World, site: str) -> None:
        self.world, self.site = world, site
        self.jobs: dict[str, JobStatus] = {}
        self.specs: dict[str, JobSpec] = {}
        self.attempts: dict[str, int] = {}
        self.full: set[str | None] = set()
        self.asked: list[str] = []
        self.submitted = 0

    def submit(self, spec: JobSpec) -> JobHandle:
        state = self.jobs[spec.name].state if spec.name in self.jobs else None
        if state is not None and spec.finds(self.attempts.get(spec.name, 1), state):
            return self._handle(spec.name)
        self.asked.append(f"{spec.machine or 'any'}{', spot' if spec.spot else ''}")
        if spec.machine in self.full:
            raise NoCapacity("there is none", where=self.site, found=f"no {spec.machine} left")
        self.submitted += 1
        self.specs[spec.name] = spec
        self.attempts[spec.name] = self.attempts.get(spec.name, 0 if state is None else 1) + 1
        self.jobs[spec.name] = JobStatus(JobState.RUNNING, step=0, total_steps=300)
        return self._handle(spec.name)

    def find(self, name: str) -> JobHandle | None:
        return self._handle(name) if name in self.jobs else None

    def _handle(self, name: str) -> JobHandle:
        return JobHandle("fake", self.site, name, {"attempt": self.attempts.get(name, 1)})

    def status(self, handle: JobHandle) -> JobStatus:
        self.world.on_status(self, handle)
        return self.jobs.get(handle.name, JobStatus(JobState.LOST))

    def stop(self, handle: JobHandle, *, grace_seconds: float) -> JobStatus:
        self.jobs[handle.name] = JobStatus(JobState.STOPPED)
        return self.jobs[handle.name]

    def request_checkpoint(self, handle: JobHandle) -> None: ...

    def confirm_dead(self, handle: JobHandle) -> bool:
        return self.jobs[handle.name].state is not JobState.RUNNING

    def capabilities(self) -> BackendCapabilities:
        return BackendCapabilities("fake", None, False)

    def log(self, handle: JobHandle, *, last_bytes: int = 8192) -> str:
        return ""

    def heartbeat(self, handle: JobHandle) -> dict[str, Any] | None:
        return None

    def links(self, handle: JobHandle) -> Mapping[str, str]:
        return {}


class FakeSenses:
    """DNS, services and the detector, told what the world is like."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.verdicts: Verdict = Verdict.DOWN
        self.lies: tuple[float, ...] | None = None
        self.silent: set[str] = set()
        self.asked = 0

    def verdict(self, rooms: Any, group: str, site: str, *, deadline_seconds: float) -> SiteVerdict:
        self.world.clock.advance(3.0)
        return SiteVerdict(site, self.verdicts, self.world.clock.now(), ("told by the test",))

    def ask(self, rooms: Any, service: str, *, timeout_seconds: float) -> Answer:
        self.asked += 1
        state = self.world.traffic_record.state
        if state is None or state.site is None:
            return Answer(None, None, None, None, None, 0.0, refused="no record")
        return self.ask_site(rooms, service, state.site, timeout_seconds=timeout_seconds)

    def ask_site(self, rooms: Any, service: str, site: str, *, timeout_seconds: float) -> Answer:
        epochs = self.world.epochs.read(GROUP)
        if site in self.world.board.cut or site in self.silent:
            return Answer(None, None, None, None, site, 0.0, refused="no answer")
        assert epochs is not None
        if epochs.active_site != site:
            return Answer(site, epochs.epoch, None, None, site, 0.0, refused="standby")
        store = self.world.bare(site)
        record = latest(store, MODEL, epoch=epochs.epoch)
        if record is None:
            return Answer(site, epochs.epoch, None, None, site, 0.0, refused="no model")
        answers = self.lies or predictions(record.labels["model_digest"])
        return Answer(site, epochs.epoch, record.labels["model_digest"], answers, site, 0.001)

    def refresh(self, rooms: Any, service: str, site: str, *, timeout_seconds: float) -> bool:
        return True

    def reference(self, rooms: Any, service: str, files: Mapping[str, bytes]) -> tuple[float, ...] | None:
        return predictions(digest_of(files["model.ubj"]))


def predictions(model: str) -> tuple[float, ...]:
    """Answers that depend on the model alone."""
    return tuple(float(byte) for byte in hashlib.sha256(model.encode()).digest()[:3])


@dataclass
class World:
    """`Rooms` in memory."""

    topology: Topology
    clock: FakeClock = field(default_factory=FakeClock)
    holder: str = "test"
    environ: dict[str, str] = field(default_factory=topology_environ)
    board: Switchboard = field(default_factory=Switchboard)

    def __post_init__(self) -> None:
        self._stores = {s: CutStore(s, self.board, memory_store(s)) for s in self.topology.sites}
        self.epochs = MemoryEpochStore(clock=self.clock)
        self.traffic_record = FakeTraffic()
        self.backends = {s: FakeBackend(self, s) for s in self.topology.sites}
        self.senses = FakeSenses(self)
        self.training_ends = True

    def store(self, site: str, *, flow: str = "") -> Any:
        return self._stores[site]

    def stores(self, sites: Iterable[str], *, flow: str = "") -> dict[str, Any]:
        return {site: self.store(site) for site in sites}

    def bare(self, site: str) -> Any:
        """The store as its own site sees it: never cut off."""
        return self._stores[site].inner

    def authority(self, group: str) -> EpochStore:
        return self.epochs

    def traffic(self, service: str) -> FakeTraffic:
        return self.traffic_record

    def backend(self, site: str) -> FakeBackend:
        return self.backends[site]

    def may_run_at(
        self,
        *placements: Placement,
        recovery: str = "next-placement",
        no_capacity: NoCapacityPolicy = NoCapacityPolicy.WAIT,
    ) -> None:
        """The job's placements and strategy, and its group's policy, as a topology would say them."""
        job = self.topology.job(JOB).model_copy(update={"placements": placements, "recovery": recovery})
        group = self.topology.group(GROUP).model_copy(update={"no_capacity": no_capacity})
        self.topology = self.topology.model_copy(update={"training": {JOB: job}, "groups": {GROUP: group}})

    # -- what happens in it ------------------------------------------------------------------------------------------

    def checkpoint(
        self, site: str, step: int, epoch: int, *, parent: CheckpointManifest | None = None
    ) -> CheckpointManifest:
        data = f"model at step {step}".encode()
        blobs = {"model": BlobRef(digest=digest_of(data), size_bytes=len(data))}
        manifest = CheckpointManifest(
            run=RUN,
            step=step,
            epoch=epoch,
            site=site,
            parent=parent.digest if parent else None,
            model_digest=model_digest(blobs, ("model",)),
            model=("model",),
            blobs=blobs,
            saved_at=self.clock.now(),
            write_id=uuid.uuid4().hex,
            dataset_snapshot=None,
        )
        write_checkpoint(self.bare(site), manifest, {"model": data}, guard=AlwaysGranted())
        return manifest

    def publish_model(self, site: str, epoch: int, content: bytes, **labels: str) -> str:
        digest = digest_of(content)
        put_snapshot(
            self.bare(site),
            dataset=MODEL,
            files={"model.ubj": content},
            epoch=epoch,
            site=site,
            labels={"model_digest": digest, **labels},
            clock=self.clock,
        )
        return digest

    def on_status(self, backend: FakeBackend, handle: JobHandle) -> None:
        """A resumed job ends when it is looked at: it trains on to the last step and publishes."""
        status = backend.jobs.get(handle.name)
        spec = backend.specs.get(handle.name)
        if (
            not self.training_ends
            or spec is None
            or status is None
            or status.state is not JobState.RUNNING
            or spec.epoch == 1
        ):
            return
        elected = elect(self.bare(backend.site), RUN, epoch=spec.epoch)
        self.checkpoint(backend.site, 300, spec.epoch, parent=elected.manifest)
        self.publish_model(backend.site, spec.epoch, b"model at step 300", run=RUN, step="300")
        backend.jobs[handle.name] = JobStatus(JobState.SUCCEEDED, step=300, total_steps=300)


def make_world() -> World:
    """Active at aws in epoch 1: data, a first model and a run with a checkpoint, all replicated; the job runs."""
    world = World(load_topology(TOPOLOGY, topology_environ()))
    world.epochs.advance(GROUP, expected_epoch=0, active_site=AWS, plan_id="init", reason="test")
    world.bare(AWS).put("data/market-data/sp500.parquet", b"prices")
    take_and_publish(world.bare(AWS), dataset=DATASET, path="market-data", epoch=1, site=AWS, clock=world.clock)
    world.publish_model(AWS, 1, b"first model", run="first")
    manifest = world.checkpoint(AWS, 100, 1)
    replicate_checkpoint(world.bare(AWS), world.bare(GCP), RUN, manifest, site=GCP, clock=world.clock)
    world.traffic_record.switch(AWS, epoch=1)
    world.traffic_record.switches = 0
    world.backends[AWS].submit(JobSpec(RUN, 1, AWS, ("train",)))
    state = world.epochs.read(GROUP)
    assert state is not None
    assert all(p.ok for p in protect_group(world, GROUP, state))
    world.clock.advance(1)
    return world


__all__ = ["World", "make_world", "timedelta"]
