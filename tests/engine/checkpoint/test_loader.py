"""A torch loader gives the same batches with any number of workers, killed or not, and touches no global generator."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.checkpoint.killed import run_killed
from holdfast.engine.checkpoint import CheckpointError
from holdfast.engine.checkpoint.loader import torch_loader
from holdfast.engine.checkpoint.order import DataOrder, Position, sample_rng, torch_generator
from holdfast.errors import ConfigError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
ORDER = DataOrder(50, 4)
BATCH = 8


class Rows:
    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([float(index), 0.0])


class Keyed(Rows):
    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        return torch.tensor([float(index), sample_rng(4, epoch, index).normal()])


def noisy(sample: Any, rng: np.random.Generator) -> Any:
    return sample + torch.tensor([0.0, rng.normal()])


def loader(workers: int = 0, **arguments: Any) -> Any:
    return torch_loader(Rows(), ORDER, **{"batch_size": BATCH, "workers": workers, "augment": noisy, **arguments})


def values(it: Any, count: int) -> list[Any]:
    return [batch.tolist() for batch in itertools.islice(it, count)]


REFERENCE_BATCHES = 17  # two epochs and three batches


def test_two_workers_give_the_batches_of_none() -> None:
    reference = values(loader(), REFERENCE_BATCHES)
    assert values(loader(2), REFERENCE_BATCHES) == reference
    assert values(loader(1, prefetch_factor=5), REFERENCE_BATCHES) == reference
    assert reference[0] != reference[7], "another epoch is another order"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_twice_within_epochs_gives_the_same_batches(workers: int) -> None:
    reference = values(loader(), REFERENCE_BATCHES)
    found: list[Any] = []
    state: Any = None
    for count in (3, 6, 8):  # within the first epoch, within the second
        it = loader(workers)
        if state is not None:
            it.load_state(state)
        found += values(it, count)
        state = it.state()
    assert found == reference


def test_the_position_is_of_what_was_handed_out_and_not_of_what_was_prefetched() -> None:
    it = loader(2, prefetch_factor=4)
    iterator = iter(it)
    for batch in range(1, 4):
        next(iterator)
        assert it.position == Position(0, batch * BATCH)
    iterator.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_no_global_generator_is_drawn_from(workers: int) -> None:
    before = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
    values(loader(workers), 3)
    assert (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()) == before


def test_a_dataset_that_takes_the_key_itself_gives_the_same_samples() -> None:
    keyed = torch_loader(Keyed(), ORDER, batch_size=BATCH, keyed=True)
    assert values(keyed, REFERENCE_BATCHES) == values(loader(), REFERENCE_BATCHES)


def test_a_sample_is_augmented_otherwise_in_each_epoch() -> None:
    noise: dict[float, set[float]] = {}
    for batch in loader(epochs=3):
        for index, one in batch.tolist():
            noise.setdefault(index, set()).add(one)
    assert sorted(noise) == [float(index) for index in range(50)]
    assert {len(seen) for seen in noise.values()} == {3}


def test_ranks_share_the_batches_and_a_run_goes_on_with_fewer() -> None:
    split = {"drop_last": True, "epochs": 1}
    whole = [sorted(batch.tolist()) for batch in loader(**split)]
    four = [loader(rank=rank, world=4, **split) for rank in range(4)]
    parts = [values(it, 2) for it in four]
    found = [sorted(itertools.chain.from_iterable(at)) for at in zip(*parts, strict=True)]
    two = [loader(rank=rank, world=2, position=four[0].position, **split) for rank in range(2)]
    found += [sorted(itertools.chain.from_iterable(one.tolist() for one in at)) for at in zip(*two, strict=True)]
    assert found == whole


def test_a_position_of_another_order_and_a_dataset_of_another_length_are_refused() -> None:
    with pytest.raises(CheckpointError, match="another data order"):
        loader().load_state({**loader().state(), "seed": 5})
    with pytest.raises(ConfigError, match="another length"):
        torch_loader(Rows(), DataOrder(51, 4), batch_size=8)
    with pytest.raises(ConfigError, match="no such position"):
        loader(position=Position(0, 51))


def test_a_torch_generator_is_the_samples_own() -> None:
    draws = {torch.rand(2, generator=torch_generator(1, epoch, index)) for epoch in range(3) for index in range(3)}
    assert len({tuple(one.tolist()) for one in draws}) == 9
    again = torch.rand(2, generator=torch_generator(1, 2, 2))
    assert any(torch.equal(one, again) for one in draws)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_killed_twice_ends_with_the_weights_of_one_nobody_disturbed(workers: int, tmp_path: Path) -> None:
    undisturbed = run_killed("torch-0", tmp_path / "undisturbed", ())
    assert run_killed(f"torch-{workers}", tmp_path / "killed", (5, 11)).blobs == undisturbed.blobs
