"""Replication reads every blob back once: a blob that did not change costs the standby's egress no second time."""

from __future__ import annotations

from typing import Any

import pytest

from engine.checkpoint.worlds import OrderedFaults, manifest_of, wait_for
from holdfast.clock import SystemClock
from holdfast.engine.checkpoint import Checkpointer, TrainingState, elect
from holdfast.engine.checkpoint.commit import write_checkpoint
from holdfast.engine.checkpoint.format import BlobRef, CheckpointManifest, blob_key, digest_of
from holdfast.engine.checkpoint.guard import AlwaysGranted
from holdfast.engine.checkpoint.housekeeping import Retention
from holdfast.engine.checkpoint.replicator import Replicator
from holdfast.engine.checkpoint.retention import KeepPolicy
from holdfast.engine.objectstore import ObjectReader, memory_store

FROZEN = b"weights that do not train"
FROZEN_KEY = blob_key("run", digest_of(FROZEN))


class Reading(OrderedFaults):
    """Counts how often each object was read in full."""

    def __init__(self) -> None:
        super().__init__(memory_store("site-b"))
        self.read: list[str] = []

    def open(self, key: str, **more: Any) -> ObjectReader:
        reader = super().open(key, **more)
        self.read.append(key)
        return reader


class World:
    """One replicator, fed by hand."""

    def __init__(self) -> None:
        self.here, self.there = memory_store("site-a"), Reading()
        self.parent: CheckpointManifest | None = None
        self.replicator = Replicator(
            self.here, self.there, "site-b", "run", guard=AlwaysGranted(), clock=SystemClock(), retry_seconds=0.01
        )

    def offer(self, step: int) -> None:
        plain, blobs = manifest_of(step, parent=self.parent)
        frozen = BlobRef(digest=digest_of(FROZEN), size_bytes=len(FROZEN))
        manifest = plain.model_copy(update={"blobs": {**plain.blobs, "frozen.bin": frozen}})
        self.parent = write_checkpoint(self.here, manifest, {**blobs, "frozen.bin": FROZEN}, guard=AlwaysGranted())
        self.replicator.offer(self.parent, {})

    def bring(self, step: int) -> None:
        self.offer(step)
        assert self.replicator.wait(step, 20)

    def frozen_read(self) -> int:
        return self.there.read.count(FROZEN_KEY)


@pytest.fixture
def world() -> Any:
    made = World()
    made.replicator.start()
    yield made
    made.replicator.close()


def test_a_blob_that_stays_is_read_back_once_and_each_new_one_is(world: World) -> None:
    for step in (1, 2, 3):
        world.bring(step)
    assert world.frozen_read() == 1
    own = [blob_key("run", manifest_of(step)[0].model_digest) for step in (1, 2, 3)]
    assert [key for key in world.there.read if key != FROZEN_KEY] == own
    assert elect(world.there, "run", epoch=1, site="site-b").step == 3


def test_after_the_site_failed_what_it_has_is_read_back_again_and_put_right(world: World) -> None:
    world.bring(1)
    world.there.down = True
    world.offer(2)
    wait_for(lambda: world.replicator.status().error is not None)
    world.there.inner.delete(FROZEN_KEY)  # it came back without
    world.there.down = False
    assert world.replicator.wait(2, 20)
    assert world.there.inner.get(FROZEN_KEY) == FROZEN


def test_what_is_forgotten_is_read_back_again(world: World) -> None:
    world.bring(1)
    world.replicator.forget()
    world.there.inner.delete(FROZEN_KEY)
    world.bring(2)
    assert world.there.inner.get(FROZEN_KEY) == FROZEN


def test_a_blob_that_a_collection_took_at_the_standby_is_brought_there_again() -> None:
    here, there = memory_store("site-a"), Reading()
    it = Checkpointer(
        here,
        "run",
        epoch=1,
        site="site-a",
        every_steps=1,
        fingerprint={},
        retry_seconds=0.01,
        replicas={"site-b": there},
        retention=Retention(KeepPolicy(last=1), grace_seconds=0.0, every_saves=1),
    )
    with it:
        for step in range(1, 9):  # three contents in turn: each is deleted, then needed again
            it.step(step, TrainingState({"model": b"content %d" % (step % 3)}))
            wait_for(lambda step=step: it.status()["replicas"]["site-b"]["step"] == step)
            assert elect(there, "run", epoch=1, site="site-b").step == step
    assert it.status()["retention"]["site-b"]["deleted_blobs"] > 0
