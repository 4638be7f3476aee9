"""The order of the data is a function of (seed, epoch, index): on every platform, in any world, after any resume."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from holdfast.engine.checkpoint import CheckpointError
from holdfast.engine.checkpoint.order import DataOrder, Position, sample_key, sample_rng
from holdfast.errors import ConfigError

#: Written down once; a change of any of them would give every run of a user another order.
GOLDEN_TEN = {0: [0, 4, 7, 9, 1, 3, 6, 8, 5, 2], 1: [6, 2, 9, 0, 4, 8, 7, 5, 3, 1]}
GOLDEN_BILLION = [415950164, 428743729, 8452645, 83864834, 397674227]
GOLDEN_KEY = 159760895470026585256167499485549498939
GOLDEN_DRAWS = [93, 555, 294, 885, 156]


def test_golden_values_stay() -> None:
    for epoch, expected in GOLDEN_TEN.items():
        assert DataOrder(10, 7).order(epoch).tolist() == expected
    assert DataOrder(1_000_000_007, 42).samples(3, 0, 5).tolist() == GOLDEN_BILLION
    assert sample_key(1, 2, 3) == GOLDEN_KEY
    assert sample_rng(1, 2, 3).integers(0, 1000, 5).tolist() == GOLDEN_DRAWS


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 97, 100, 101, 4096, 10_001])
def test_an_order_is_a_permutation(length: int) -> None:
    for seed, epoch in itertools.product((0, 2**53 - 1), (0, 1, 10**9)):
        assert sorted(DataOrder(length, seed).order(epoch).tolist()) == list(range(length))


def by_hand(length: int, seed: int, epoch: int) -> list[int]:
    """The algorithm as its papers and the module's docstring state it, in Python's own integers, place by place."""
    mask = 2**64 - 1
    keys = [
        int.from_bytes(hashlib.sha256(f"holdfast:order:{seed}:{epoch}:{number}".encode()).digest(), "big") & mask
        for number in range(8)
    ]
    a = next(a for a in range(1, length + 1) if a * a >= length)
    b = (length + a - 1) // a

    def encipher(value: int) -> int:
        left, right = value % a, value // a
        for number, key in enumerate(keys):
            x = right * 0x9E3779B97F4A7C15 & mask ^ key
            x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
            x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
            left, right = right, (left + (x ^ x >> 31)) % (a if number % 2 == 0 else b)
        return left + a * right

    found = []
    for place in range(length):
        value = encipher(place)
        while value >= length:
            value = encipher(value)
        found.append(value)
    return found


@pytest.mark.parametrize("length", [2, 3, 10, 97, 1000])
def test_it_is_the_stated_algorithm_computed_in_pythons_own_integers(length: int) -> None:
    for seed, epoch in itertools.product((0, 7), (0, 5)):
        assert DataOrder(length, seed).order(epoch).tolist() == by_hand(length, seed, epoch)


def test_epochs_and_seeds_have_other_orders_and_unshuffled_ones_none() -> None:
    orders = {tuple(DataOrder(50, seed).order(epoch)) for seed in range(20) for epoch in range(20)}
    assert len(orders) == 400
    assert DataOrder(50, 3, shuffle=False).order(7).tolist() == list(range(50))


def test_each_sample_is_as_often_in_each_place() -> None:
    length, epochs = 16, 4000
    counts = np.zeros((length, length))
    for epoch in range(epochs):
        counts[np.arange(length), DataOrder(length, 11).order(epoch)] += 1
    expected = epochs / length
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = (length - 1) ** 2
    assert abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


def test_neighbours_do_not_stay_together() -> None:
    order = DataOrder(10_000, 3).order(0)
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
    assert (np.abs(np.diff(order)) == 1).sum() < 15  # two are expected


def test_a_part_is_the_same_as_of_the_whole_and_costs_no_memory_of_it() -> None:
    order = DataOrder(1000, 5)
    assert order.samples(2, 300, 320).tolist() == order.order(2)[300:320].tolist()
    assert len(DataOrder(2**53 - 1, 5).samples(0, 2**52, 2**52 + 8)) == 8


def taken(order: DataOrder, count: int, **split: Any) -> list[Any]:
    return list(itertools.islice(order.batches(**split), count))


def test_a_resume_at_any_batch_goes_on_with_the_same_batches() -> None:
    order = DataOrder(53, 1)
    whole = taken(order, 20, batch_size=8)
    for stop in range(19):
        at = order.position(json.loads(json.dumps(order.state(whole[stop].next))))
        resumed = taken(order, 19 - stop, batch_size=8, start=at)
        assert [one.samples.tolist() for one in resumed] == [one.samples.tolist() for one in whole[stop + 1 :]]
        assert resumed[-1].next == whole[-1].next


def test_an_epoch_has_every_sample_once_and_ends_where_asked() -> None:
    batches = list(DataOrder(53, 1).batches(8, epochs=2))
    for epoch in (0, 1):
        seen = [sample for one in batches if one.epoch == epoch for sample in one.samples.tolist()]
        assert sorted(seen) == list(range(53))
    assert [len(one.samples) for one in DataOrder(53, 1).batches(8, epochs=1, drop_last=True)] == [8] * 6


def test_the_global_order_does_not_depend_on_the_world_also_when_it_changes_midway() -> None:
    order = DataOrder(100, 9)

    def together(world: int, count: int, start: Position) -> tuple[list[list[int]], Position]:
        ranks = [
            taken(order, count, batch_size=12, start=start, rank=rank, world=world, drop_last=True)
            for rank in range(world)
        ]
        assert len({tuple(one.next for one in rank) for rank in ranks}) == 1
        assert {len(one.samples) for rank in ranks for one in rank} == {12 // world}
        batches = [sorted(sample for one in at for sample in one.samples.tolist()) for at in zip(*ranks, strict=True)]
        return batches, ranks[0][-1].next

    whole, _ = together(1, 20, Position())
    four, at = together(4, 7, Position())
    two, at = together(2, 6, at)
    three, _ = together(3, 7, at)
    assert four + two + three == whole


def test_a_split_that_gives_ranks_unequal_parts_is_refused_at_once() -> None:
    for split in (
        {"batch_size": 10, "world": 4, "drop_last": True},
        {"batch_size": 12, "world": 4},  # the last batch of 97 has one sample
    ):
        with pytest.raises(ConfigError, match="unequal parts"):
            DataOrder(97, 1).batches(**split)
    for split in ({"batch_size": 0}, {"batch_size": 4, "rank": 2, "world": 2}, {"batch_size": 98, "drop_last": True}):
        with pytest.raises(ConfigError, match="no such split"):
            DataOrder(97, 1).batches(**split)


@pytest.mark.parametrize("arguments", [(0, 1), (-1, 1), (5, -1), (5, 2**53), (2.0, 1), (True, 1)], ids=str)
def test_an_impossible_order_is_refused(arguments: tuple[Any, Any]) -> None:
    with pytest.raises(ConfigError, match="a data order needs another"):
        DataOrder(*arguments)


def test_the_state_is_four_integers_and_another_orders_is_refused() -> None:
    order = DataOrder(53, 1)
    state = order.state(Position(2, 8))
    assert state == {"length": 53, "seed": 1, "epoch": 2, "index": 8}
    for changed in ({"length": 54}, {"seed": 2}):
        with pytest.raises(CheckpointError, match="another data order"):
            order.position({**state, **changed})
    for changed in ({"index": 54}, {"index": -1}, {"epoch": -1}, {"epoch": "2"}, {"index": 1.5}):
        with pytest.raises(CheckpointError, match="cannot be one"):
            order.position({**state, **changed})


def test_a_samples_randomness_is_its_own_and_leaves_numpys_alone() -> None:
    before = np.random.get_state()[1].copy()
    draws = {
        tuple(sample_rng(seed, epoch, index).integers(0, 2**32, 4))
        for seed, epoch, index in itertools.product(range(5), repeat=3)
    }
    assert len(draws) == 125
    assert (np.random.get_state()[1] == before).all()


def test_it_works_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from holdfast.engine.checkpoint.order import DataOrder, sample_rng\n"
        "print(DataOrder(10, 7).order(0).tolist(), sample_rng(1, 2, 3).integers(0, 1000, 5).tolist())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == f"{GOLDEN_TEN[0]} {GOLDEN_DRAWS}"
