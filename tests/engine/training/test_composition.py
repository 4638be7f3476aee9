"""What a training process is made of: its guard, its standbys, its data, its published model."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.clock import FakeClock
from holdfast.engine.authority.interface import EpochState, NoMajority
from holdfast.engine.authority.lease import Lease
from holdfast.engine.checkpoint import (
    Checkpointer,
    CheckpointError,
    EnvironmentIncomplete,
    Fenced,
    Permission,
    SaveMode,
    StateTooLarge,
    TrainingState,
    elect,
    fork_run,
)
from holdfast.engine.checkpoint.environment import TrainingEnvironment
from holdfast.engine.checkpoint.sharded import Ranks, ShardedCheckpointer
from holdfast.engine.config import EnvironmentConnections, Topology, TrainingJob
from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.replication import ResidencyRefused, replicate
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import begin_epoch, latest, new_fork, take_and_publish, verify
from holdfast.engine.training import LeaseGuard, Training
from holdfast.errors import ConfigError


class OneOfTwo(Ranks):
    """A rank of two whose leader says what the test says."""

    def __init__(self, rank: int, leader_says: Any = None) -> None:
        super().__init__(rank, 2, group="none")
        self.leader_says = leader_says

    def exchange(self, value: Any) -> list[Any]:
        return [value if self.leads else {"value": self.leader_says}, value]


ENVIRONMENT = TrainingEnvironment(run="run", epoch=1, site="site-a", group="risk", job="forecast")


def topology(**dataset: Any) -> Topology:
    sites = {
        name: {"cloud": "local", "region": "r", "jurisdiction": jurisdiction, "connection": "c", "bucket": "/tmp"}
        for name, jurisdiction in (
            ("site-a", "EU"),
            ("site-b", "EU"),
            ("site-c", "US"),
            ("site-d", "EU"),
            ("site-e", "US"),
        )
    }
    return Topology.model_validate(
        {
            "version": 1,
            "sites": sites,
            "datasets": {"market": {"path": "market", **dataset}},
            "residency": {"eu-only": {"jurisdictions": ["EU"]}},
            "training": {
                name: {
                    "dataset": "market",
                    "model": "model",
                    "command": ["true"],
                    "steps": 20,
                    "checkpoint_every_steps": 10,
                }
                for name in ("forecast", "another")
            },
            "groups": {
                "risk": {
                    "owner": "test",
                    "tier": 1,
                    "objectives": {"rpo_seconds": 30, "rto_seconds": 60},
                    "training": ["forecast"],
                    "sites": {"active": "site-a", "standby": ["site-b", "site-c"], "witness": ["site-d", "site-e"]},
                }
            },
        }
    )


class Register:
    """An epoch store whose answer the test sets."""

    def __init__(self, epoch: int = 1, active: str = "site-a") -> None:
        self.set(epoch, active)
        self.reachable = True

    def set(self, epoch: int, active: str) -> None:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        self.state = EpochState("risk", epoch, active, None, "plan", "test", "test", at, "write")

    def read(self, _group: str) -> EpochState:
        if not self.reachable:
            raise NoMajority("one of three answered")
        return self.state


class World(Runtime):
    """A runtime over memory stores and a register of the test's."""

    def __init__(self, **dataset: Any) -> None:
        environ = {"HOLDFAST_STATE": os.environ["HOLDFAST_STATE"]}
        super().__init__(topology(**dataset), EnvironmentConnections({}), clock=FakeClock(), environ=environ)
        self.memory: dict[str, ObjectStore] = {name: memory_store(name) for name in self.topology.sites}
        self.register = Register()
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"x": [1.0, 2.0]}), sink)
        self.memory["site-a"].put("data/market/part.parquet", sink.getvalue().to_pybytes())
        self.data = take_and_publish(
            self.memory["site-a"], dataset="market", path="market", epoch=1, site="site-a", clock=self.clock
        )

    def store(self, site: str, *, flow: str = "") -> ObjectStore:
        return self.memory[site]

    def authority(self, _group: str) -> Any:
        return self.register


@pytest.fixture
def world() -> World:
    return World()


def guard(world: World, *, epoch: int = 1) -> tuple[LeaseGuard, Lease]:
    lease = Lease("risk", "site-a", world.register, fence_seconds=30, clock=world.clock)  # type: ignore[arg-type]  # read only
    return LeaseGuard(lease, epoch, renew_seconds=3600), lease


def test_writing_is_granted_while_a_fresh_majority_names_this_site_and_epoch(world: World) -> None:
    it, lease = guard(world)
    assert it.permission() is Permission.GRANTED
    world.register.reachable = False
    world.clock.sleep(29)
    lease.renew()
    assert it.permission() is Permission.GRANTED
    world.clock.sleep(2)
    assert it.permission() is Permission.HELD


def test_a_newer_epoch_fences_for_good(world: World) -> None:
    it, lease = guard(world)
    world.register.set(2, "site-b")
    lease.renew()
    assert it.permission() is Permission.FENCED
    world.clock.sleep(1000)
    assert it.permission() is Permission.FENCED


def test_a_majority_that_comes_back_and_names_the_same_epoch_lets_training_go_on(world: World) -> None:
    it, lease = guard(world)
    world.clock.sleep(1000)
    assert it.permission() is Permission.HELD
    lease.renew()
    assert it.permission() is Permission.GRANTED


def test_an_epoch_the_register_has_not_reached_is_not_written_for(world: World) -> None:
    assert guard(world, epoch=2)[0].permission() is Permission.HELD


def test_checkpoints_go_to_every_active_or_standby_site_but_this(world: World) -> None:
    assert Training.open(ENVIRONMENT, world).standbys == ("site-b", "site-c")


def test_checkpoints_go_only_where_the_data_may_lie() -> None:
    training = Training.open(ENVIRONMENT, World(residency="eu-only"))
    assert training.standbys == ("site-b",)
    assert list(training.refused) == ["site-c"]


def test_a_standby_the_residency_forbids_gets_nothing_and_the_others_all() -> None:
    world = World(residency="eu-only")
    training = Training.open(ENVIRONMENT, world)
    train(training)
    assert list(world.store("site-c").list()) == []
    assert elect(world.store("site-b"), "run", epoch=1).step == 20
    status = training.checkpointer.status()
    assert status["published"]["replicas"]["site-b"] == "replicated"
    assert status["published"]["replicas"]["site-c"].startswith("refused: ")
    assert "jurisdiction" in status["refused_standbys"]["site-c"]


def test_a_model_two_jobs_publish_goes_only_where_the_data_of_both_may_lie() -> None:
    world = World()
    bound = world.topology.dataset("market").model_copy(update={"residency": "eu-only"})
    job = world.topology.job("another").model_copy(update={"dataset": "private"})
    world.topology.datasets["private"], world.topology.training["another"] = bound, job
    training = Training.open(ENVIRONMENT, world)
    train(training)
    assert elect(world.store("site-c"), "run", epoch=1).step == 20
    assert latest(world.store("site-c"), "model", epoch=1) is None
    assert training.checkpointer.status()["published"]["replicas"]["site-c"].startswith("refused: ")


def test_training_does_not_begin_where_its_data_may_not_lie() -> None:
    with pytest.raises(ResidencyRefused):
        Training.open(replace(ENVIRONMENT, site="site-c"), World(residency="eu-only"))


def train(training: Training) -> None:
    with training.checkpointer as checkpointer:
        for step in range(1, 21):
            checkpointer.step(step, TrainingState({"model.bin": f"model {step}".encode()}))
        finished = checkpointer.finish(TrainingState({"model.bin": b"model 20"}))
        training.publish_model({"model.bin": b"model 20"}, finished)


def test_the_finished_model_is_published_and_verified_at_the_standbys(world: World) -> None:
    training = Training.open(ENVIRONMENT, world)
    assert training.dataset().column("x").to_pylist() == [1.0, 2.0]
    train(training)
    for site in ("site-a", "site-b", "site-c"):
        record = latest(world.store(site), "model", epoch=1)
        assert record is not None
        assert record.labels["model_digest"] == elect(world.store(site), "run", epoch=1).manifest.model_digest  # type: ignore[union-attr]
        assert verify(world.store(site), record).ok
        assert (record.labels["run"], record.labels["step"]) == ("run", "20")
    assert training.checkpointer.status()["published"]["replicas"] == {"site-b": "replicated", "site-c": "replicated"}


def test_a_run_cut_off_at_its_last_step_publishes_its_model_in_the_epoch_that_goes_on(world: World) -> None:
    """Its checkpoint is of the old epoch; a model published there would never be selected."""
    training = Training.open(ENVIRONMENT, world)
    with training.checkpointer as checkpointer:
        for step in range(1, 21):
            checkpointer.step(step, TrainingState({"model.bin": f"model {step}".encode()}))
        assert checkpointer.finish(TrainingState({"model.bin": b"model 20"})).replicated["site-b"]
    world.register.set(2, "site-b")
    store = world.store("site-b")
    replicate(
        world.store("site-a"),
        store,
        record=world.data,
        source_site="site-a",
        target_site="site-b",
        residency=None,
        topology_sites=world.topology.sites,
        clock=world.clock,
    )
    begin_epoch(
        store,
        world.data,
        new_fork(
            "market",
            epoch=2,
            parent_epoch=1,
            forked_from=world.data.snapshot_id,
            site="site-b",
            plan_id="plan",
            holder="test",
            reason="test",
            created_at=world.clock.now(),
            write_id="write",
        ),
    )
    fork_run(
        store,
        "run",
        epoch=2,
        parent_epoch=1,
        election=elect(store, "run", epoch=1),
        site="site-b",
        plan_id="plan",
        holder="test",
        reason="test",
        clock=world.clock,
    )
    again = Training.open(replace(ENVIRONMENT, epoch=2, site="site-b"), world)
    resumed = again.checkpointer.resume()
    assert resumed is not None
    assert resumed.step == 20
    with again.checkpointer as checkpointer:
        again.publish_model({"model.bin": b"model 20"}, checkpointer.finish(TrainingState({"model.bin": b"model 20"})))
    record = latest(store, "model", epoch=2)
    assert record is not None
    assert (record.epoch, record.labels["run"], record.labels["step"]) == (2, "run", "20")


def test_a_fenced_process_publishes_no_model(world: World) -> None:
    training = Training.open(ENVIRONMENT, world)
    with training.checkpointer as checkpointer:
        checkpointer.step(20, TrainingState({"model.bin": b"model 20"}))
        finished = checkpointer.finish(TrainingState({"model.bin": b"model 20"}))
        world.register.set(2, "site-b")
        training.checkpointer.guard._lease.renew()  # type: ignore[attr-defined]  # what its thread does in a moment
        with pytest.raises(Fenced):
            training.publish_model({"model.bin": b"model 20"}, finished)
    assert latest(world.store("site-a"), "model", epoch=1) is None


def test_a_reference_run_writes_into_its_scratch_folder_alone(world: World, tmp_path: Path) -> None:
    keys = {site: [info.key for info in store.list()] for site, store in world.memory.items()}
    world.register.reachable = False
    train(Training.open(replace(ENVIRONMENT, scratch=tmp_path / "scratch"), world))
    assert {site: [info.key for info in store.list()] for site, store in world.memory.items()} == keys
    assert list((tmp_path / "scratch").rglob("*.json"))


def test_the_trainer_chooses_the_save_mode_and_adds_to_the_fingerprint(world: World) -> None:
    training = Training.open(ENVIRONMENT, world, mode="blocking", fingerprint={"precision": "bfloat16"})
    assert training.checkpointer.mode is SaveMode.BLOCKING
    train(training)
    manifest = elect(world.store("site-a"), "run", epoch=1).manifest
    assert manifest is not None
    assert manifest.fingerprint["precision"] == "bfloat16"
    assert "machine" in manifest.fingerprint


def test_a_checkpointer_of_the_environment_saves_in_the_mode_it_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runtime, "from_environment", lambda **_: world)
    environ = {
        f"HOLDFAST_{name.upper()}": str(getattr(ENVIRONMENT, name)) for name in ("run", "epoch", "site", "group", "job")
    }
    assert Checkpointer.from_environment(environ, mode="overlap").mode is SaveMode.OVERLAP
    assert Checkpointer.from_environment(environ).mode is SaveMode.COPY


def test_a_jobs_checkpoints_are_compressed_as_its_topology_says(world: World) -> None:
    state = TrainingState({"model": bytes(100_000)})
    for policy, encoding in (("none", None), ("auto", "zstd")):
        jobs = dict(world.topology.training)
        document = {**jobs["forecast"].model_dump(), "checkpoint_compression": {"policy": policy, "level": 3}}
        jobs["forecast"] = TrainingJob.model_validate(document)
        world.topology = world.topology.model_copy(update={"training": jobs})
        training = Training.open(replace(ENVIRONMENT, run=f"run-{policy}"), world)
        with training.checkpointer as checkpointer:
            checkpointer.step(10, state)
            manifest = checkpointer.finish(state).manifest
        assert manifest.blobs["model"].encoding == encoding


def test_a_jobs_memory_budget_refuses_a_larger_state(world: World) -> None:
    jobs = dict(world.topology.training)
    jobs["forecast"] = TrainingJob.model_validate({**jobs["forecast"].model_dump(), "checkpoint_memory_mib": 1})
    world.topology = world.topology.model_copy(update={"training": jobs})
    with Training.open(ENVIRONMENT, world).checkpointer as checkpointer:
        checkpointer.step(10, TrainingState({"model": bytes(512 * 1024)}))
        with pytest.raises(StateTooLarge):
            checkpointer.step(20, TrainingState({"model": bytes(512 * 1024 + 1)}))


def test_the_self_test_is_switched_on_by_the_caller_or_the_environment(world: World) -> None:
    assert not Training.open(ENVIRONMENT, world).checkpointer._self_test
    assert Training.open(ENVIRONMENT, world, self_test=True).checkpointer._self_test
    told = {f"HOLDFAST_{name}": "x" for name in ("RUN", "SITE", "GROUP", "JOB")} | {"HOLDFAST_EPOCH": "1"}
    assert not TrainingEnvironment.read(told).self_test
    asked = TrainingEnvironment.read({**told, "HOLDFAST_SELF_TEST": "1"}).self_test
    assert Training.open(replace(ENVIRONMENT, self_test=asked), world).checkpointer._self_test
    with pytest.raises(EnvironmentIncomplete, match="HOLDFAST_SELF_TEST"):
        TrainingEnvironment.read({**told, "HOLDFAST_SELF_TEST": "yes"})


def test_notices_are_watched_for_where_the_environment_says_so(world: World) -> None:
    assert Training.open(ENVIRONMENT, world).checkpointer._signal.watch is None
    assert Training.open(replace(ENVIRONMENT, preemption="gcp"), world).checkpointer._signal.watch is not None
    # The sites of this world are in no cloud.
    assert Training.open(replace(ENVIRONMENT, preemption="site"), world).checkpointer._signal.watch is None
    with pytest.raises(ConfigError, match="no preemption notices are known"):
        Training.open(replace(ENVIRONMENT, preemption="moon"), world)


def test_a_dataset_snapshot_that_is_not_here_is_named(world: World) -> None:
    with pytest.raises(CheckpointError, match="not at this site"):
        Training.open(replace(ENVIRONMENT, dataset_snapshot="0" * 32), world)


def test_a_job_of_another_group_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="does not have this training job"):
        Training.open(replace(ENVIRONMENT, job="another"), world)


def test_an_incomplete_environment_names_everything_that_is_wrong() -> None:
    with pytest.raises(EnvironmentIncomplete) as refused:
        TrainingEnvironment.read({"HOLDFAST_RUN": "run", "HOLDFAST_EPOCH": "first", "HOLDFAST_STEPS": "many"})
    for name in ("HOLDFAST_EPOCH", "HOLDFAST_STEPS", "HOLDFAST_SITE", "HOLDFAST_GROUP", "HOLDFAST_JOB"):
        assert name in str(refused.value)
    assert refused.value.exit_code == 2


def test_of_the_ranks_only_the_first_asks_the_authority_and_replicates(world: World, tmp_path: Path) -> None:
    environment = replace(ENVIRONMENT, heartbeat=tmp_path / "heartbeat.json")
    leader = Training.open(environment, world, ranks=OneOfTwo(0))
    assert isinstance(leader.checkpointer, ShardedCheckpointer)
    assert isinstance(leader.checkpointer.guard, LeaseGuard)
    assert leader.checkpointer.standbys == set(leader.standbys) != set()
    leader.checkpointer.guard.close()
    world.register.set(2, "site-b")  # a follower would be fenced, were it to ask
    follower = Training.open(environment, world, ranks=OneOfTwo(1, world.data.snapshot_id)).checkpointer
    assert follower.guard.permission() is Permission.GRANTED
    assert follower.standbys == set()
    assert follower._heartbeat.path is None


def test_every_rank_trains_on_the_snapshot_that_the_first_found(world: World) -> None:
    first = world.data.snapshot_id
    world.memory["site-a"].put("data/market/more.parquet", world.memory["site-a"].get("data/market/part.parquet"))
    world.clock.advance(1)
    take_and_publish(world.memory["site-a"], dataset="market", path="market", epoch=1, site="site-a", clock=world.clock)
    follower = Training.open(ENVIRONMENT, world, ranks=OneOfTwo(1, first))
    assert follower.data_record.snapshot_id == first
    alone = Training.open(ENVIRONMENT, world)
    assert alone.data_record.snapshot_id != first
    alone.checkpointer.guard.close()  # type: ignore[attr-defined]


def test_another_rank_than_the_first_publishes_nothing(world: World) -> None:
    follower = Training.open(ENVIRONMENT, world, ranks=OneOfTwo(1, world.data.snapshot_id))
    with pytest.raises(CheckpointError, match="another rank than 0"):
        follower.publish_model({"model.bin": b"model"}, None)  # type: ignore[arg-type]
    assert latest(world.memory["site-a"], "model", epoch=1) is None
