"""The three save modes: what is saved is the state of its step, however soon training goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from engine.checkpoint.worlds import OrderedFaults, wait_for
from holdfast.engine.checkpoint import CheckpointError, SaveMode, StateTooLarge, TornState, buffers, elect, load_state
from holdfast.engine.checkpoint.adapters.torch import TorchAdapter
from holdfast.engine.checkpoint.checkpointer import Checkpointer
from holdfast.engine.objectstore import memory_store

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Loop:
    """Weights, moments, BatchNorm's statistics, a frozen part; every step changes all but the last."""

    def __init__(self, seed: int = 1) -> None:
        torch.manual_seed(seed)
        self.module = torch.nn.Sequential(
            torch.nn.Linear(32, 32), torch.nn.BatchNorm1d(32), torch.nn.Dropout(0.2), torch.nn.Linear(32, 1)
        )
        self.backbone = torch.nn.Linear(32, 32)
        self.backbone.requires_grad_(False)
        self.all = torch.nn.ModuleDict({"head": self.module, "backbone": self.backbone})
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-2)
        self.adapter = TorchAdapter(self.all, self.optimizer)

    def forward_and_backward(self) -> None:
        inputs = torch.randn(16, 32)
        self.optimizer.zero_grad()
        (self.module(self.backbone(inputs)) ** 2).mean().backward()

    def step(self) -> None:
        self.forward_and_backward()
        self.optimizer.step()


def run(store: Any, loop: Loop, steps: range, **settings: Any) -> None:
    checkpointer = Checkpointer(
        store, "run", epoch=1, site="site-a", every_steps=1, fingerprint={}, retry_seconds=0.01, **settings
    )
    if steps.start > 1:
        assert checkpointer.resume(loop.adapter) is not None
    with checkpointer:
        for step in steps:
            loop.step()
            checkpointer.step(step, loop.adapter)
        checkpointer.finish(loop.adapter)


def hold(go: threading.Event) -> None:
    assert go.wait(20)


def blobs(loop: Loop) -> dict[str, bytes]:
    return dict(loop.adapter.state().blobs)


@pytest.mark.parametrize("mode", list(SaveMode))
def test_every_mode_saves_the_state_of_its_step_and_resumes_bit_for_bit(mode: SaveMode) -> None:
    store, loop = memory_store(), Loop()
    run(store, loop, range(1, 9), mode=mode, self_test=True)
    found = elect(store, "run", epoch=1)
    assert found.manifest is not None
    assert dict(load_state(store, found.manifest).blobs) == blobs(loop)
    again = Loop(seed=7)
    run(store, again, range(9, 13), mode=mode)
    for _ in range(4):
        loop.step()
    # The process's generator is one for both loops: the second went on from the saved one, so did `loop`.
    reference = Loop()
    for _ in range(12):
        reference.step()
    assert blobs(again) == blobs(reference)


@pytest.mark.parametrize("mode", list(SaveMode))
def test_every_mode_resumes_bit_for_bit_from_compressed_checkpoints(mode: SaveMode) -> None:
    stores, digests = (memory_store(), memory_store()), []
    for store, policies in zip(stores, (("zstd", "none", "zstd"), ("none", "none", "none")), strict=True):
        for part, policy in enumerate(policies):
            loop = Loop()
            run(store, loop, range(4 * part + 1, 4 * part + 5), mode=mode, compression=policy)
            found = elect(store, "run", epoch=1).manifest
            assert found is not None
            assert dict(load_state(store, found).blobs) == blobs(loop)
            assert (found.encoded > 0) is (policy == "zstd")
            digests.append(found.model_digest)
    assert digests[:3] == digests[3:]


def test_a_state_is_as_of_its_step_though_the_writer_comes_to_it_much_later() -> None:
    store, loop, go = OrderedFaults(memory_store()), Loop(), threading.Event()
    store.before_put = lambda _key: hold(go)
    with Checkpointer(store, "run", epoch=1, site="site-a", every_steps=2, fingerprint={}, mode="overlap") as saving:
        for step in (1, 2):
            loop.step()
            saving.step(step, loop.adapter)
        saved = blobs(loop)
        for step in (3,):
            loop.step()
            saving.step(step, loop.adapter)
        go.set()
        wait_for(lambda: elect(store, "run", epoch=1).step == 2)
    found = elect(store, "run", epoch=1)
    assert found.manifest is not None
    assert dict(load_state(store, found.manifest).blobs) == saved


def test_a_store_that_hangs_holds_two_states_and_the_newest_takes_the_place_of_the_one_that_waits() -> None:
    store, loop, go = OrderedFaults(memory_store()), Loop(), threading.Event()
    store.before_put = lambda _key: hold(go)
    with Checkpointer(store, "run", epoch=1, site="site-a", every_steps=1, fingerprint={}) as saving:
        for step in range(1, 9):
            loop.step()
            saving.step(step, loop.adapter)
            wait_for(lambda: saving.status()["saving"]["in_flight_step"] == 1)
        seen = saving.status()["saving"]
        assert seen["in_flight_step"] == 1
        assert seen["superseded"] > 0
        go.set()
        finished = saving.finish(loop.adapter)
    assert finished.manifest.step == 8
    assert dict(load_state(store, finished.manifest).blobs) == blobs(loop)


def test_weights_changed_behind_the_hook_are_caught_by_the_self_test() -> None:
    store, loop, changed, training = memory_store(), Loop(), threading.Event(), threading.current_thread()
    copy = loop.adapter.copier.copy

    def late(pairs: Any) -> None:
        if threading.current_thread() is not training:
            hold(changed)  # the copy takes its time, as that of a large state does
        copy(pairs)

    loop.adapter.copier.copy = late  # type: ignore[method-assign]
    with Checkpointer(
        store, "run", epoch=1, site="site-a", every_steps=1, fingerprint={}, mode="overlap", self_test=True
    ) as saving:
        loop.step()
        saving.step(1, loop.adapter)
        with torch.no_grad():
            loop.module[0].weight.add_(1)  # weight averaging, say, outside the optimizer
        changed.set()
        with pytest.raises(TornState, match=r"1 of \d+ tensors changed"):
            loop.step()
    assert elect(store, "run", epoch=1).manifest is None


def test_a_change_after_before_update_is_no_tear() -> None:
    store, loop = memory_store(), Loop()
    with Checkpointer(
        store, "run", epoch=1, site="site-a", every_steps=1, fingerprint={}, mode="overlap", self_test=True
    ) as saving:
        loop.step()
        saving.step(1, loop.adapter)
        saving.before_update()
        with torch.no_grad():
            loop.module[0].weight.add_(1)
        loop.step()
        saving.step(2, loop.adapter)
        saving.finish(loop.adapter)
    assert elect(store, "run", epoch=1).step == 2


def test_an_adapter_without_a_hook_cannot_overlap() -> None:
    loop = Loop()
    loop.adapter.before_update = lambda _hook: False  # type: ignore[method-assign]
    with (
        pytest.raises(CheckpointError, match="about to change"),
        Checkpointer(memory_store(), "run", epoch=1, site="a", every_steps=1, fingerprint={}, mode="overlap") as saving,
    ):
        saving.step(1, loop.adapter)


def test_a_state_beyond_the_memory_allowed_is_refused_before_anything_is_written() -> None:
    store, loop = OrderedFaults(memory_store()), Loop()
    with (
        pytest.raises(StateTooLarge, match="twice the state"),
        Checkpointer(store, "run", epoch=1, site="a", every_steps=1, fingerprint={}, memory_bytes=10_000) as saving,
    ):
        saving.step(1, loop.adapter)
    assert store.puts == []


def test_a_state_beyond_the_memory_allowed_is_refused_at_the_first_step_though_no_save_is_due() -> None:
    store, loop = OrderedFaults(memory_store()), Loop()
    loop.step()
    with (
        pytest.raises(StateTooLarge, match="twice the state"),
        Checkpointer(store, "run", epoch=1, site="a", every_steps=50, fingerprint={}, memory_bytes=10_000) as saving,
    ):
        saving.step(1, loop.adapter)


@pytest.mark.parametrize("resumed", [False, True])
def test_the_buffers_are_made_before_the_first_save(resumed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are taken from the pool as they were made in the background: the save makes none."""
    made: list[int] = []
    store, loop = memory_store(), Loop()
    run(store, loop, range(1, 3))
    make = buffers.BufferSet.__init__
    monkeypatch.setattr(
        buffers.BufferSet, "__init__", lambda *given: (made.append(threading.get_ident()), make(*given))[1]
    )
    again = Loop() if resumed else loop
    saving = Checkpointer(store, "run" if resumed else "other", epoch=1, site="site-a", every_steps=4, fingerprint={})
    if resumed:
        assert saving.resume(again.adapter) is not None
    with saving:
        for step in (3, 4):
            again.step()
            saving.step(step, again.adapter)
        saving.finish(again.adapter)
    assert len(made) == 2
    assert threading.get_ident() not in made, "made by another thread than the one that trains"


def test_with_compression_the_memory_allowed_has_to_hold_an_encoded_blob_too() -> None:
    loop = Loop()
    loop.step()
    sizes = [sum(one.spec.size_bytes for one in group.tensors) for group in loop.adapter.live().groups]
    for compression, memory_bytes, fits in (
        ("none", 2 * sum(sizes), True),
        ("zstd", 2 * sum(sizes) + max(sizes) - 1, False),
        ("zstd", 2 * sum(sizes) + max(sizes), True),
    ):
        saving = Checkpointer(
            memory_store(),
            "run",
            epoch=1,
            site="a",
            every_steps=1,
            fingerprint={},
            memory_bytes=memory_bytes,
            compression=compression,
        )
        with saving:
            if fits:
                saving.step(1, loop.adapter)
                saving.finish(loop.adapter)
            else:
                with pytest.raises(StateTooLarge, match="twice the state and its largest blob encoded"):
                    saving.step(1, loop.adapter)


def test_a_frozen_backbone_is_written_once() -> None:
    store, loop = OrderedFaults(memory_store()), Loop()
    run(store, loop, range(1, 5), mode="copy")
    manifests = [elect(store, "run", epoch=1).manifest]
    frozen = {m.blobs["model-frozen-000.safetensors"].digest for m in manifests if m is not None}
    (digest,) = frozen
    assert sum(digest.replace(":", "-") in key for key in store.puts) == 1


def test_a_checkpoint_of_another_model_is_refused() -> None:
    store, loop = memory_store(), Loop()
    run(store, loop, range(1, 3), mode="copy")
    other = Loop()
    other.all["head"][0] = torch.nn.Linear(16, 32)
    checkpointer = Checkpointer(store, "run", epoch=1, site="site-a", every_steps=1, fingerprint={})
    with pytest.raises(CheckpointError, match="not of this model"):
        checkpointer.resume(other.adapter)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_the_replica_gets_the_state_though_the_buffers_were_used_again(compression: str) -> None:
    source, target, loop = memory_store(), OrderedFaults(memory_store()), Loop()
    with Checkpointer(
        source,
        "run",
        epoch=1,
        site="site-a",
        every_steps=1,
        fingerprint={},
        replicas={"site-b": target},
        retry_seconds=0.01,
        compression=compression,
    ) as saving:
        target.down = True
        for step in range(1, 6):
            loop.step()
            saving.step(step, loop.adapter)
            wait_for(lambda step=step: elect(source, "run", epoch=1).step >= step - 1)
        target.down = False
        finished = saving.finish(loop.adapter)
    assert finished.replicated == {"site-b": True}
    there = elect(target, "run", epoch=1)
    assert there.manifest is not None
    assert dict(load_state(target, there.manifest).blobs) == blobs(loop)
