"""The process dies at every single store operation in turn: the target shows the old snapshot or the new, whole."""

from __future__ import annotations

import pytest

from holdfast.engine.snapshot import open_snapshot, verify


def scene(world):
    """An old snapshot at the target; a new one at the source with added, changed and removed objects."""
    world.put("aws", keep=b"k", over=b"1", gone=b"g")
    old = world.publish()
    world.bring(old)
    world.put("aws", over=b"22", added=b"a", also=b"aa")
    world.drop("aws", "gone")
    return old, world.publish()


def contents(store, record):
    opened = open_snapshot(store, record)
    return {path: opened.read(path) for path in opened.manifest.paths}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("side", ["source_store", "target_store"])
def test_a_kill_at_any_operation_leaves_the_old_or_the_new_snapshot(world, mortal, killed, side, after):
    from copy import copy

    from holdfast.clock import FakeClock
    from holdfast.engine.objectstore import memory_store

    site = {"source_store": "aws", "target_store": "gcp"}[side]
    outcomes = set()
    index = 0
    while True:
        fresh = copy(world)
        fresh.stores, fresh.clock = {name: memory_store(name) for name in world.stores}, FakeClock()
        old, new = scene(fresh)
        store = mortal(fresh.stores[site], dies_at=index, after=after)
        try:
            fresh.bring(new, **{side: store}, threads=1)
        except killed:
            pass
        else:
            break
        there = fresh.latest("gcp")
        assert there in (old, new), f"operation {index}"
        assert verify(fresh.stores["gcp"], old).ok, f"operation {index}: the old snapshot was harmed"
        if there == new:
            assert contents(fresh.stores["gcp"], new) == contents(fresh.stores["aws"], new)
        outcomes.add(there.snapshot_id == new.snapshot_id)
        again = mortal(fresh.stores["gcp"])
        fresh.bring(new, target_store=again, threads=1)
        assert fresh.latest("gcp") == new
        assert contents(fresh.stores["gcp"], new) == {"keep": b"k", "over": b"22", "added": b"a", "also": b"aa"}
        index += 1
    assert index > 5
    assert False in outcomes


def test_a_second_run_copies_only_what_is_missing(world, mortal, killed):
    _, new = scene(world)
    dry = mortal(world.stores["gcp"])
    target = mortal(world.stores["gcp"], dies_at=11)
    with pytest.raises(killed):
        world.bring(new, target_store=target, threads=1)
    landed = {key for verb, key in target.operations[:11] if verb == "put"}
    assert landed, target.operations
    report = world.bring(new, target_store=dry, threads=1)
    again = {key for verb, key in dry.operations if verb == "put"}
    assert not landed & again
    assert report.copied_objects == 3 - len(landed)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_during_publish_leaves_the_old_or_the_new_snapshot(world, mortal, killed, after):
    from holdfast.engine.snapshot import publish, take

    world.put("aws", a=b"1")
    store = world.stores["aws"]
    index = 0
    previous = world.publish()
    while True:
        world.put("aws", a=str(index).encode())
        world.clock.advance(1)
        taken = take(store, dataset="market", path="market", clock=world.clock, previous=previous)
        arguments = {
            "epoch": 1,
            "site": "aws",
            "parent": previous.snapshot_id,
            "clock": world.clock,
            "write_id": f"w{index}",
        }
        try:
            record = publish(mortal(store, dies_at=index, after=after), taken, **arguments)
            break
        except killed:
            pass
        there = world.latest("aws")
        assert there == previous or there.write_id == f"w{index}"
        record = publish(store, taken, **arguments)
        assert world.latest("aws") == record
        if there != previous:
            assert record == there  # the lost answer was found again
        previous = record
        index += 1
    assert index >= 3
