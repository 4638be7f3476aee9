"""PyTorch resumes bit for bit, and each part of the state is needed for it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from holdfast.engine.checkpoint import CheckpointError, CheckpointUnreadable, TrainingState, elect
from holdfast.engine.checkpoint.adapters.torch import GENERATORS_BLOB, REST_BLOB, TorchAdapter
from holdfast.engine.checkpoint.checkpointer import Checkpointer
from holdfast.engine.objectstore import memory_store

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytestmark = pytest.mark.torch
STEPS = 24


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Loop:
    """A training loop that draws from every generator: dropout, shuffling, Python and NumPy augmentation."""

    def __init__(self, seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        first = torch.nn.Linear(8, 8)
        self.module = torch.nn.Sequential(
            first,
            torch.nn.Dropout(0.3),
            torch.nn.ReLU(),
            torch.nn.BatchNorm1d(8),
            torch.nn.Linear(8, 8),
            torch.nn.Linear(8, 1),
        )
        self.module[4].weight = first.weight  # tied
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, max_lr=5e-2, total_steps=STEPS + 1)
        self.shuffle = torch.Generator().manual_seed(seed + 1)
        data = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(64, 8, generator=data)
        self.targets = self.inputs.sum(1, keepdim=True).sin()
        self.position = 0
        self.adapter = TorchAdapter(
            self.module,
            self.optimizer,
            scheduler=self.scheduler,
            generators={"shuffle": self.shuffle},
            extra=lambda: {"position": self.position},
            load_extra=lambda extra: setattr(self, "position", extra["position"]),
        )

    def step(self) -> None:
        rows = torch.randperm(64, generator=self.shuffle)[:16]
        noise = float(np.random.normal(0, 0.1)) + random.gauss(0, 0.1) + self.position * 1e-3
        loss = ((self.module(self.inputs[rows] + noise) - self.targets[rows]) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.position += 1

    def run(self, steps: int) -> TrainingState:
        for _ in range(steps):
            self.step()
        return self.adapter.state()


def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit_killed_once_or_twice() -> None:
    reference = Loop(1).run(STEPS).blobs
    saved = Loop(1).run(7)
    for stop in (5, STEPS - 7):
        other = Loop(99)
        other.run(3)
        other.adapter.load_state(saved)
        saved = other.run(stop if stop == 5 else STEPS - 12)
    assert saved.blobs == reference


@pytest.mark.parametrize("part", ["model", "optimizer", GENERATORS_BLOB, REST_BLOB])
def test_each_part_of_the_state_is_needed(part: str) -> None:
    reference = Loop(1).run(STEPS).blobs
    saved, other = Loop(1).run(7), Loop(99)
    junk = other.run(7)
    wrong = {name: data for name, data in junk.blobs.items() if name.startswith(part)}
    assert wrong
    other.adapter.load_state(TrainingState({**saved.blobs, **wrong}))
    after = other.run(STEPS - 7)
    assert any(after.blobs[name] != reference[name] for name in after.model)


def test_saving_does_not_change_what_comes_next() -> None:
    loop = Loop(1)
    for _ in range(STEPS):
        loop.step()
        loop.adapter.state()
    assert loop.adapter.state().blobs == Loop(1).run(STEPS).blobs


def test_a_state_taken_is_not_torn_by_the_steps_after_it() -> None:
    loop = Loop(1)
    taken = loop.run(5)
    before = dict(taken.blobs)
    loop.run(5)
    assert dict(taken.blobs) == before


def test_another_number_of_threads_is_not_called_bitwise() -> None:
    store, loop = memory_store(), Loop(1)
    with Checkpointer(store, "run", epoch=1, site="site-a", every_steps=5) as checkpointer:
        for step in range(1, 6):
            loop.step()
            checkpointer.step(step, loop.adapter)
        checkpointer.finish(loop.adapter)
    again = Checkpointer(store, "run", epoch=1, site="site-a", every_steps=5)
    resumed = again.resume(Loop(2).adapter)
    assert resumed is not None
    assert resumed.resume == "bitwise"
    torch.set_num_threads(2)
    resumed = again.resume(Loop(2).adapter)
    assert resumed is not None
    assert resumed.resume == "numerically equivalent"
    assert elect(store, "run", epoch=1).step == 5


def test_a_state_that_is_no_json_is_refused_with_its_place() -> None:
    loop: Any = Loop(1)
    adapter = TorchAdapter(loop.module, loop.optimizer, extra=lambda: {"function": print})
    with pytest.raises(CheckpointError, match="neither tensor nor JSON"):
        adapter.state()


@pytest.mark.parametrize(
    "blobs",
    [
        {"model.ubj": b"trees"},
        {"model.safetensors": b"", "arrays.safetensors": b"", REST_BLOB: b"{}"},
        {GENERATORS_BLOB: b"", REST_BLOB: b"{}"},
        {GENERATORS_BLOB: b"", REST_BLOB: b"{"},
    ],
)
def test_another_adapters_checkpoint_is_refused_and_says_what_it_found(blobs: dict[str, bytes]) -> None:
    with pytest.raises(CheckpointUnreadable, match=r"not one of this adapter.*expected.*found"):
        Loop(1).adapter.load_state(TrainingState(blobs))


def test_a_scheduler_or_scaler_on_one_side_only_is_refused_and_nothing_changes() -> None:
    loop = Loop(1)
    with_one = loop.run(3)
    without = TorchAdapter(loop.module, loop.optimizer)
    other = Loop(2)
    before = other.adapter.state().blobs
    with pytest.raises(CheckpointError, match="a scheduler's state and this adapter no scheduler"):
        TorchAdapter(other.module, other.optimizer).load_state(with_one)
    with pytest.raises(CheckpointError, match="no scheduler's state and this adapter a scheduler"):
        other.adapter.load_state(without.state())
    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(CheckpointError, match="no scaler's state and this adapter a scaler"):
        TorchAdapter(other.module, other.optimizer, scaler=scaler).load_state(without.state())
    assert other.adapter.state().blobs == before
