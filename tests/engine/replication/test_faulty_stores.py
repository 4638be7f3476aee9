"""Replication over stores that fail, lose answers, cut and bend bytes: whatever is committed is whole and right."""

from __future__ import annotations

import random

import pytest

from holdfast.engine.objectstore.faults import Chance, FaultyStore, Kind
from holdfast.engine.snapshot import open_snapshot, publish, records, take
from holdfast.errors import HoldfastError

RATES = {
    "failures": {Kind.FAIL_BEFORE: 0.04, Kind.BREAK: 0.1},
    "lost answers": {Kind.FAIL_AFTER: 0.06},
    "bent and cut bytes": {Kind.CORRUPT: 0.03, Kind.TRUNCATE: 0.03},
    "everything": {
        Kind.FAIL_BEFORE: 0.02,
        Kind.FAIL_AFTER: 0.02,
        Kind.CORRUPT: 0.01,
        Kind.TRUNCATE: 0.01,
        Kind.BREAK: 0.03,
    },
}


def see(store, record):
    opened = open_snapshot(store, record)
    return {path: opened.read(path) for path in opened.manifest.paths}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rates", RATES)
def test_whatever_is_committed_is_whole(world, rates, seed):
    files = {f"o{i}": bytes([i]) * (i * 100) for i in range(8)}
    world.put("aws", **files)
    old = world.publish()
    world.bring(old)
    files |= {"o1": b"changed", "new": b"n"}
    world.put("aws", **files)
    new = world.publish()

    def faulty(site, salt):
        return FaultyStore(world.stores[site], Chance(random.Random(seed * 1000 + salt), RATES[rates]))

    for attempt in range(200):
        try:
            world.bring(new, source_store=faulty("aws", attempt), target_store=faulty("gcp", attempt + 500), threads=2)
        except HoldfastError:
            assert world.latest("gcp") in (old, new)
            assert see(world.stores["gcp"], world.latest("gcp"))
        else:
            break
    assert world.latest("gcp") == new
    assert see(world.stores["gcp"], new) == files
    assert len(records(world.stores["gcp"], "market")) == 2


@pytest.mark.parametrize("seed", range(10))
def test_a_publish_whose_answers_get_lost_makes_one_record(world, seed):
    world.put("aws", a=b"1")
    store = world.stores["aws"]
    taken = take(store, dataset="market", path="market", clock=world.clock)
    for attempt in range(500):  # half of its ten requests fail
        chance = Chance(random.Random(seed * 1000 + attempt), {Kind.FAIL_AFTER: 0.3, Kind.FAIL_BEFORE: 0.2})
        world.clock.advance(1)
        try:
            record = publish(
                FaultyStore(store, chance), taken, epoch=1, site="aws", parent=None, clock=world.clock, write_id="w"
            )
            break
        except HoldfastError:
            continue
    assert records(store, "market") == [record]
