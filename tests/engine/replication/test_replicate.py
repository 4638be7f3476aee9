"""Replication between stores in memory."""

from __future__ import annotations

from datetime import timedelta

import pytest

from holdfast.engine.config import Residency
from holdfast.engine.objectstore import memory_store
from holdfast.engine.replication import ResidencyRefused, SourceChanged, SourceDamaged, StaleSource, lag, objects
from holdfast.engine.snapshot import (
    DatasetEmpty,
    EpochUnknownHere,
    ForkConflict,
    load_manifest,
    open_snapshot,
    read_forks,
    read_object,
    read_receipt,
    root,
    take,
    verify,
)


def contents(store, record):
    opened = open_snapshot(store, record)
    return {path: opened.read(path) for path in opened.manifest.paths}


def test_a_replica_holds_the_same_bytes_and_a_receipt(world):
    world.put("aws", a=b"one", b=b"two" * 1000, empty=b"")
    record = world.publish()
    seen = []
    report = world.bring(record, progress=seen.append)
    gcp = world.stores["gcp"]
    assert world.latest("gcp") == record
    assert (
        contents(gcp, record)
        == contents(world.stores["aws"], record)
        == {"a": b"one", "b": b"two" * 1000, "empty": b""}
    )
    assert gcp.get("data/market/a") == b"one"  # readable by any tool
    assert load_manifest(gcp, record).data == load_manifest(world.stores["aws"], record).data
    assert (report.copied_objects, report.verified_objects, report.skipped_objects) == (3, 3, 0)
    receipt = read_receipt(gcp, "market", record.snapshot_id, "gcp")
    assert receipt.key == report.receipt_key
    assert receipt.read_back_objects == 3
    assert seen[-1].done_objects == seen[-1].total_objects == 3


def test_the_commit_record_is_the_last_thing_written(world, mortal):
    world.put("aws", a=b"one", b=b"two")
    record = world.publish()
    target = mortal(world.stores["gcp"])
    world.bring(record, target_store=target, threads=1)
    puts = [key for verb, key in target.operations if verb == "put"]
    assert puts[-1] == record.key
    assert puts[-2].startswith("receipts/")


def test_only_what_differs_is_copied_or_read(world, mortal):
    world.put("aws", **{f"o{i}": b"x" * i for i in range(1, 30)})
    world.bring(world.publish())
    world.put("aws", o3=b"changed", new=b"n")
    world.drop("aws", "o7")
    record = world.publish()
    target = mortal(world.stores["gcp"])
    report = world.bring(record, target_store=target)
    assert (report.copied_objects, report.skipped_objects) == (2, 27)
    assert {key for verb, key in target.operations if verb == "open"} == {
        "data/market/new",
        next(k.key for k in world.stores["gcp"].list("data/market/.versions/")),
    }
    assert contents(world.stores["gcp"], record) == contents(world.stores["aws"], record)


def test_replicating_again_does_nothing(world):
    world.put("aws", a=b"one")
    record = world.publish()
    first = world.bring(record)
    again = world.bring(record)
    assert again.already_there
    assert again.copied_objects == again.verified_objects == 0
    assert again.receipt_key == first.receipt_key


def test_nothing_published_is_ever_overwritten(world):
    world.put("aws", a=b"one")
    old = world.publish()
    world.bring(old)
    world.put("aws", a=b"two")
    new = world.publish()
    world.bring(new)
    gcp = world.stores["gcp"]
    assert read_object(gcp, old, "a") == b"one"
    assert read_object(gcp, new, "a") == b"two"
    assert verify(gcp, old).ok
    assert verify(gcp, new).ok


def test_an_object_overwritten_at_the_source_is_never_mixed_in(world):
    world.put("aws", a=b"one", b=b"two")
    record = world.publish()
    world.put("aws", a=b"ONE")
    with pytest.raises(SourceChanged, match="data/market/a"):
        world.bring(record)
    assert world.latest("gcp") is None
    world.drop("aws", "a")
    with pytest.raises(SourceChanged):
        world.bring(record)
    assert world.latest("gcp") is None


def test_an_object_rewritten_with_the_same_bytes_is_copied(world):
    world.put("aws", a=b"one")
    record = world.publish()
    world.put("aws", a=b"one")
    world.bring(record)
    assert read_object(world.stores["gcp"], record, "a") == b"one"


def test_a_source_that_gives_wrong_bytes_is_named(world):
    world.put("aws", a=b"one")
    record = world.publish()

    class Bent:
        def __init__(self, store):
            self._store = store

        def __getattr__(self, name):
            return getattr(self._store, name)

        def open(self, key, **kwargs):
            reader = self._store.open(key, **kwargs)
            return type(reader)(info=reader.info, chunks=iter([b"onf"]))

    with pytest.raises(SourceDamaged):
        world.bring(record, source_store=Bent(world.stores["aws"]))
    assert world.latest("gcp") is None


def test_bytes_already_at_the_target_are_verified_not_copied(world):
    world.put("aws", a=b"one", b=b"two")
    record = world.publish()
    world.put("gcp", a=b"one", b=b"TWO")
    report = world.bring(record)
    assert (report.copied_objects, report.verified_objects) == (1, 2)
    assert world.stores["gcp"].get("data/market/b") == b"TWO"
    assert read_object(world.stores["gcp"], record, "b") == b"two"


def test_residency_is_decided_before_a_byte_moves(world, mortal):
    world.put("aws", a=b"one")
    record = world.publish()
    source, target = mortal(world.stores["aws"]), mortal(world.stores["azure"])
    with pytest.raises(ResidencyRefused, match="US") as refused:
        world.bring(
            record, target="azure", source_store=source, target_store=target, residency=Residency(jurisdictions=("EU",))
        )
    assert refused.value.exit_code == 3
    assert source.operations == target.operations == []
    world.bring(record, target="gcp", residency=Residency(jurisdictions=("EU",)))


def test_big_objects_are_streamed(world, monkeypatch):
    monkeypatch.setattr(objects, "WHOLE_BYTES", 1000)
    world.put("aws", big=b"x" * 50_000, small=b"y")
    record = world.publish()
    report = world.bring(record)
    assert report.copied_bytes == 50_001
    assert contents(world.stores["gcp"], record)["big"] == b"x" * 50_000


def test_a_promoted_site_goes_on_from_exactly_the_recovery_point(world):
    """The live folder there still shows overwritten and removed objects; they must not come back to life."""
    world.put("aws", keep=b"k", over=b"1", gone=b"g")
    world.bring(world.publish())
    world.put("aws", over=b"2")
    world.drop("aws", "gone")
    point = world.publish()
    world.bring(point)
    world.fork("gcp", 2, point.snapshot_id)
    assert world.latest("gcp", 2) == point
    first = world.publish("gcp", epoch=2)
    assert contents(world.stores["gcp"], first) == {"keep": b"k", "over": b"2"}
    world.put("gcp", over=b"3", gone=b"back", more=b"m")
    second = world.publish("gcp", epoch=2)
    assert contents(world.stores["gcp"], second) == {"keep": b"k", "over": b"3", "gone": b"back", "more": b"m"}
    world.drop("gcp", "keep")
    third = world.publish("gcp", epoch=2)
    assert set(contents(world.stores["gcp"], third)) == {"over", "gone", "more"}
    # and home again
    world.put("aws", zombie=b"z", over=b"zombie")
    world.bring(third, source="gcp", target="aws")
    assert world.latest("aws", 2) == third
    assert contents(world.stores["aws"], third) == {"over": b"3", "gone": b"back", "more": b"m"}
    back = world.publish("aws", epoch=2)
    assert contents(world.stores["aws"], back) == contents(world.stores["aws"], third)


def test_what_a_cut_off_replication_left_is_not_taken_for_new_data(world, mortal, killed):
    world.put("aws", a=b"one")
    point = world.publish()
    world.bring(point)
    world.put("aws", b=b"two", c=b"three")
    record = world.publish()
    with pytest.raises(killed):
        world.bring(record, target_store=mortal(world.stores["gcp"], dies_putting="manifest.parquet"), threads=1)
    assert [i.key for i in world.stores["gcp"].list("data/market/b")] == ["data/market/b"]
    world.fork("gcp", 2, point.snapshot_id)
    first = world.publish("gcp", epoch=2)
    assert contents(world.stores["gcp"], first) == {"a": b"one"}
    with pytest.raises(DatasetEmpty, match="came with a replication"):
        take(world.stores["gcp"], dataset="market", path="market", clock=world.clock)


def test_a_stale_source_is_refused_by_a_target_in_a_newer_epoch(world):
    world.put("aws", a=b"one")
    point = world.publish()
    world.bring(point)
    world.fork("gcp", 2, point.snapshot_id)
    world.put("aws", a=b"zombie")
    with pytest.raises(StaleSource):
        world.bring(world.publish())
    assert world.latest("gcp", 2) == point
    assert world.stores["gcp"].get("data/market/a") == b"one"
    world.bring(point)  # an ancestor is welcome


def test_forks_travel_before_the_snapshot(world):
    world.put("aws", a=b"one")
    point = world.publish()
    world.bring(point)
    world.fork("gcp", 2, point.snapshot_id)
    record = world.publish("gcp", epoch=2)
    world.bring(record, source="gcp", target="azure")
    assert [f.epoch for f in read_forks(world.stores["azure"], root("market"))] == [2]
    assert world.latest("azure", 2) == record
    with pytest.raises(EpochUnknownHere):
        world.latest("aws", 2)
    world.bring(record, source="gcp", target="aws")
    assert world.latest("aws", 2) == record


def test_two_histories_of_one_epoch_are_never_merged(world):
    world.put("aws", a=b"one")
    point = world.publish()
    world.bring(point)
    world.bring(point, target="azure")
    world.fork("gcp", 2, point.snapshot_id, plan="p1")
    world.fork("azure", 2, None, plan="p2")
    with pytest.raises(ForkConflict):
        world.bring(world.publish("gcp", epoch=2), source="gcp", target="azure")


def test_lag_counts_what_would_be_lost(world):
    def now():
        return lag(world.stores["aws"], world.stores["gcp"], "market", epoch=1, now=world.clock.now())

    assert now().missing_snapshots == 0
    world.put("aws", a=b"one", b=b"two")
    first = world.publish()
    world.clock.advance(10)
    behind = now()
    assert (behind.objects, behind.bytes, behind.missing_snapshots, behind.recovery_point_at) == (2, 6, 1, None)
    world.bring(first)
    assert (now().seconds, now().objects, now().recovery_point_at) == (0.0, 0, first.taken_at)
    world.put("aws", b=b"three")
    second = world.publish()
    world.publish()
    world.clock.advance(60)
    behind = now()
    assert (behind.objects, behind.bytes, behind.missing_snapshots) == (1, 5, 2)
    assert behind.seconds == (world.clock.now() - second.taken_at) / timedelta(seconds=1)


def test_a_model_published_at_both_sites_with_the_same_bytes_is_one_folder(world):
    from holdfast.engine.snapshot import put_snapshot

    def put(site, epoch):
        return put_snapshot(
            world.stores[site],
            dataset="m",
            files={"f": b"1"},
            epoch=epoch,
            site=site,
            labels={"e": str(epoch)},
            clock=world.clock,
        )

    one = put("aws", 1)
    world.bring(one)
    from holdfast.engine.snapshot import new_fork, write_fork

    write_fork(
        world.stores["gcp"],
        root("m"),
        new_fork(
            "m",
            epoch=2,
            parent_epoch=1,
            forked_from=one.snapshot_id,
            site="gcp",
            plan_id="p",
            holder="t",
            reason="t",
            created_at=world.clock.now(),
        ),
    )
    two = put("gcp", 2)
    assert two.path == one.path
    assert two.parent == one.snapshot_id
    assert read_object(world.stores["gcp"], two, "f") == b"1"
    world.bring(two, source="gcp", target="aws")
    assert read_object(world.stores["aws"], two, "f") == b"1"


def test_a_store_that_keeps_no_metadata_gets_every_object_under_versions(world):
    class Plain:
        def __init__(self, store):
            self._store = store

        def __getattr__(self, name):
            return getattr(self._store, name)

        def capabilities(self):
            from dataclasses import replace

            return replace(self._store.capabilities(), metadata=False)

    world.put("aws", a=b"one")
    record = world.publish()
    plain = Plain(memory_store("local"))
    world.bring(record, target_store=plain)
    assert read_object(plain, record, "a") == b"one"
    assert not any(i.key == "data/market/a" for i in plain.list("data/"))
