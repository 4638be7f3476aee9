"""Taking and publishing on a store in memory."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import memory_store
from holdfast.engine.snapshot import (
    CommitRecordDamaged,
    DatasetEmpty,
    EpochUnknownHere,
    ManifestDamaged,
    NotInSnapshot,
    ObjectDamaged,
    ObjectOverwritten,
    UnknownParent,
    find_record,
    latest,
    load_manifest,
    new_fork,
    open_table,
    publish,
    put_snapshot,
    read_object,
    records,
    root,
    selectable,
    take,
    take_and_publish,
    verify,
    write_fork,
)
from holdfast.engine.snapshot.keys import manifest_key


@pytest.fixture
def store():
    return memory_store("aws-test")


@pytest.fixture
def clock():
    return FakeClock()


def fill(store, **files: bytes) -> None:
    for name, data in files.items():
        store.put(f"data/market/{name}", data)


def snap(store, clock, epoch=1, **kwargs):
    clock.advance(1)
    return take_and_publish(store, dataset="market", path="market", epoch=epoch, site="aws", clock=clock, **kwargs)


def fork(store, epoch, forked_from, clock, plan="p1"):
    return write_fork(
        store,
        root("market"),
        new_fork(
            "market",
            epoch=epoch,
            parent_epoch=epoch - 1,
            forked_from=forked_from,
            site="gcp",
            plan_id=plan,
            holder="me",
            reason="test",
            created_at=clock.now(),
        ),
    )


def test_a_published_snapshot_is_read_back_whole(store, clock):
    fill(store, a=b"one", b=b"two")
    record = snap(store, clock, labels={"k": "v"})
    assert latest(store, "market", epoch=1) == record == find_record(store, "market", record.snapshot_id)
    assert read_object(store, record, "a") == b"one"
    assert (record.object_count, record.size_bytes, record.labels) == (2, 6, {"k": "v"})
    assert load_manifest(store, record).paths == ["a", "b"]
    assert verify(store, record).ok
    with pytest.raises(NotInSnapshot):
        read_object(store, record, "c")


def test_nothing_is_latest_before_the_commit_record(store, clock):
    fill(store, a=b"one")
    take(store, dataset="market", path="market", clock=clock)
    assert latest(store, "market", epoch=1) is None
    assert records(store, "market") == []


def test_an_empty_folder_is_refused_unless_allowed(store, clock):
    with pytest.raises(DatasetEmpty, match="data/market/"):
        take(store, dataset="market", path="market", clock=clock)
    assert take(store, dataset="market", path="market", clock=clock, allow_empty=True).object_count == 0


def test_unchanged_objects_are_not_read_again(store, clock):
    fill(store, a=b"one", b=b"two")
    first = snap(store, clock)
    fill(store, b=b"TWO", c=b"three")
    taken = take(store, dataset="market", path="market", clock=clock, previous=first)
    assert taken.hashed_objects == 2
    assert taken.object_count == 3
    second = publish(store, taken, epoch=1, site="aws", parent=first.snapshot_id, clock=clock)
    assert second.parent == first.snapshot_id
    assert verify(store, second).ok


def test_publishing_again_with_the_same_write_id_gives_the_same_record(store, clock):
    fill(store, a=b"one")
    taken = take(store, dataset="market", path="market", clock=clock)
    one = publish(store, taken, epoch=1, site="aws", parent=None, clock=clock, write_id="w")
    clock.advance(5)
    assert publish(store, taken, epoch=1, site="aws", parent=None, clock=clock, write_id="w") == one
    assert len(records(store, "market")) == 1


def test_a_parent_that_is_not_here_is_refused(store, clock):
    fill(store, a=b"one")
    taken = take(store, dataset="market", path="market", clock=clock)
    with pytest.raises(UnknownParent):
        publish(store, taken, epoch=1, site="aws", parent="0" * 32, clock=clock)


def test_a_child_sorts_after_its_parent_even_when_the_clock_went_back(store, clock):
    fill(store, a=b"one")
    first = snap(store, clock)
    clock.advance(-3600)
    second = snap(store, clock)
    assert second.committed_at > first.committed_at
    assert latest(store, "market", epoch=1) == second


def test_a_stale_epoch_never_wins(store, clock):
    fill(store, a=b"one")
    first = snap(store, clock)
    fork(store, 2, first.snapshot_id, clock)
    clock.advance(100)
    stale = publish(
        store,
        take(store, dataset="market", path="market", clock=clock),
        epoch=1,
        site="aws",
        parent=first.snapshot_id,
        clock=clock,
    )
    assert latest(store, "market", epoch=2) == first
    assert stale.snapshot_id not in {r.snapshot_id for r in selectable(store, "market", epoch=2)}
    second = snap(store, clock, epoch=2)
    assert second.parent == first.snapshot_id
    assert [r.snapshot_id for r in selectable(store, "market", epoch=2)] == [second.snapshot_id, first.snapshot_id]


def test_an_epoch_whose_fork_is_unknown_here_selects_and_adds_nothing(store, clock):
    fill(store, a=b"one")
    first = snap(store, clock)
    with pytest.raises(EpochUnknownHere):
        latest(store, "market", epoch=2)
    taken = take(store, dataset="market", path="market", clock=clock)
    with pytest.raises(EpochUnknownHere):
        publish(store, taken, epoch=2, site="gcp", parent=first.snapshot_id, clock=clock)
    fork(store, 2, "f" * 32, clock)
    with pytest.raises(EpochUnknownHere, match="forked from is not here"):
        latest(store, "market", epoch=2)


def test_a_dataset_that_begins_in_a_later_epoch_begins_with_nothing(store, clock):
    fill(store, a=b"one")
    assert latest(store, "market", epoch=3) is None
    record = snap(store, clock, epoch=3)
    assert latest(store, "market", epoch=3) == record


def test_an_overwritten_object_is_told_from_a_damaged_one(store, clock):
    fill(store, a=b"one")
    record = snap(store, clock)
    fill(store, a=b"ONE")
    with pytest.raises(ObjectOverwritten):
        read_object(store, record, "a")
    store.delete("data/market/a")
    with pytest.raises(ObjectOverwritten):
        read_object(store, record, "a")
    assert verify(store, record).missing == ("a",)


def test_verify_names_missing_corrupt_and_extra(store, clock):
    fill(store, a=b"one", b=b"two")
    record = snap(store, clock)
    fill(store, b=b"TWO", c=b"new")
    store.delete("data/market/a")
    report = verify(store, record)
    assert (report.ok, report.missing, report.corrupt, report.extra) == (False, ("a",), ("b",), ("c",))


def test_a_changed_commit_record_is_noticed(store, clock):
    fill(store, a=b"one")
    record = snap(store, clock, labels={"model": "abc"})
    good = store.get(record.key)
    for bad in (good.replace(b"abc", b"abd"), good[:-5], b"", b"[]"):
        store.put(record.key, bad)
        with pytest.raises(CommitRecordDamaged):
            latest(store, "market", epoch=1)


def test_a_changed_or_missing_manifest_is_noticed(store, clock):
    fill(store, a=b"one")
    record = snap(store, clock)
    key = manifest_key("market", record.snapshot_id)
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))
    with pytest.raises(ManifestDamaged):
        load_manifest(store, record)
    store.delete(key)
    with pytest.raises(ManifestDamaged, match="no manifest"):
        read_object(store, record, "a")


def test_a_model_is_published_once_however_often_it_is_put(store, clock, tmp_path):
    (tmp_path / "big").write_bytes(b"x" * (9 * 1024 * 1024))
    files = {"model.ubj": b"tree", "features.json": b"[]", "big.bin": tmp_path / "big"}
    kwargs = {
        "dataset": "vol-model",
        "files": files,
        "epoch": 1,
        "site": "aws",
        "labels": {"run": "r", "step": "3"},
        "clock": clock,
    }
    one = put_snapshot(store, **kwargs)
    clock.advance(9)
    assert put_snapshot(store, **kwargs) == one
    assert one.path.startswith("models/vol-model/")
    assert read_object(store, one, "model.ubj") == b"tree"
    two = put_snapshot(store, **{**kwargs, "files": {**files, "model.ubj": b"tree2"}})
    assert two.parent == one.snapshot_id
    assert two.path != one.path
    assert read_object(store, one, "model.ubj") == b"tree"
    with pytest.raises(DatasetEmpty):
        put_snapshot(store, **{**kwargs, "files": {}})


def test_other_bytes_in_an_immutable_folder_are_refused(store, clock):
    kwargs = {"dataset": "m", "files": {"f": b"1"}, "epoch": 1, "site": "aws", "labels": {}, "clock": clock}
    path = put_snapshot(memory_store(), **kwargs).path
    store.put(f"data/{path}/f", b"2")
    with pytest.raises(ObjectDamaged):
        put_snapshot(store, **kwargs)


def test_a_parquet_dataset_is_read_as_one_table(store, clock, tmp_path):
    for i in range(2):
        pq.write_table(pa.table({"x": [i]}), tmp_path / "t")
        store.put(f"data/market/{i}.parquet", (tmp_path / "t").read_bytes())
    record = snap(store, clock)
    assert open_table(store, record)["x"].to_pylist() == [0, 1]
