"""Readers see one snapshot throughout: bytes of the snapshot or an error, whatever is published meanwhile."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.clock import FakeClock
from holdfast.engine import snapshot
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.snapshot import (
    NotInSnapshot,
    ObjectDamaged,
    ObjectOverwritten,
    SnapshotIsReadOnly,
    SnapshotNotSelectable,
    filesystem,
    take_and_publish,
)

fsspec = pytest.importorskip("fsspec")


def parquet(*values: int) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": list(values)}), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def clock():
    return FakeClock()


def publish(store, clock, files, *, removed=()):
    for name, data in files.items():
        store.put(f"data/market/{name}", data)
    for name in removed:
        store.delete(f"data/market/{name}")
    clock.advance(1)
    return take_and_publish(store, dataset="market", path="market", epoch=1, site="aws", clock=clock)


class Versioned(StoreDecorator):
    """A bucket that keeps what is overwritten, as a reader by version id sees it. Its listing names no version."""

    def __init__(self, inner):
        super().__init__(inner)
        self.kept: dict[tuple[str, str], bytes] = {}
        self.count = 0
        self.now: dict[str, str] = {}

    def capabilities(self):
        return replace(self.inner.capabilities(), versions=True)

    def put(self, key, data, **kwargs):
        version = self.inner.put(key, data, **kwargs)
        self.count += 1
        self.now[key] = f"v{self.count}"
        self.kept[key, self.now[key]] = bytes(data)
        return replace(version, version=self.now[key])

    def _named(self, info):
        return replace(info, version=replace(info.version, version=self.now.get(info.key)))

    def head(self, key):
        return self._named(self.inner.head(key))

    def get(self, key, *, byte_range=None, if_match=None):
        if if_match is None or if_match.e_tag is not None:
            return self.inner.get(key, byte_range=byte_range, if_match=if_match)
        if (key, if_match.version) not in self.kept:
            raise ObjectNotFound("no such version", where=key)
        data = self.kept[key, if_match.version]
        return data if byte_range is None else data[byte_range.start : byte_range.end]

    def open(self, key, *, byte_range=None, if_match=None, chunk_bytes=1 << 22):
        if if_match is None or if_match.e_tag is not None:
            reader = self.inner.open(key, byte_range=byte_range, if_match=if_match, chunk_bytes=chunk_bytes)
            return replace(reader, info=self._named(reader.info))
        from holdfast.engine.objectstore import ObjectInfo, ObjectReader

        data = self.get(key, byte_range=byte_range, if_match=if_match)
        return ObjectReader(ObjectInfo(key, len(data), None, if_match), iter([data]))


def test_a_dataset_opens_at_its_newest_or_at_a_named_snapshot(clock):
    store = memory_store()
    first = publish(store, clock, {"a": b"one"})
    second = publish(store, clock, {"b": b"two"})
    assert snapshot.open(store, "market", epoch=1).record == second
    assert snapshot.open(store, "market", epoch=1, snapshot_id=first.snapshot_id).record == first
    with pytest.raises(SnapshotNotSelectable):
        snapshot.open(store, "market", epoch=1, snapshot_id="0" * 32)
    with pytest.raises(SnapshotNotSelectable):
        snapshot.open(store, "empty", epoch=1)


def test_a_listing_names_paths_digests_and_keys(clock):
    store = memory_store()
    publish(store, clock, {"a/x": b"one", "b": b"two"})
    rows = snapshot.open(store, "market", epoch=1).listing().to_pylist()
    assert [(row["path"], row["size_bytes"], row["key"]) for row in rows] == [
        ("a/x", 3, "data/market/a/x"),
        ("b", 3, "data/market/b"),
    ]


def test_a_file_system_is_the_snapshot_while_later_ones_are_published(clock):
    store = memory_store()
    publish(store, clock, {"2024/a.parquet": parquet(1, 2), "2024/b.parquet": parquet(3), "c.json": b"{}"})
    fs = snapshot.open(store, "market", epoch=1).filesystem()
    publish(store, clock, {"2025/new.parquet": parquet(9)}, removed=["c.json"])
    assert fs.ls("", detail=False) == ["2024", "c.json"]
    assert fs.find("") == ["2024/a.parquet", "2024/b.parquet", "c.json"]
    assert fs.glob("**/*.parquet") == ["2024/a.parquet", "2024/b.parquet"]
    assert [folder for folder, _, _ in fs.walk("")] == ["", "2024"]
    assert fs.info("holdfast://2024/")["type"] == "directory"
    assert fs.exists("2024/a.parquet")
    assert not fs.exists("2025/new.parquet")
    assert fs.cat_file("2024/b.parquet") == parquet(3)
    with fs.open("2024/a.parquet") as file:
        assert pq.read_table(file)["x"].to_pylist() == [1, 2]
    with pytest.raises(ObjectOverwritten):
        fs.cat_file("c.json")
    with pytest.raises(FileNotFoundError):
        fs.open("2025/new.parquet")


def test_an_overwritten_object_is_an_error_and_never_other_bytes(clock):
    store = memory_store()
    publish(store, clock, {"a": b"old"})
    opened = snapshot.open(store, "market", epoch=1)
    store.put("data/market/a", b"new")
    for read in (lambda: opened.read("a"), lambda: opened.read_range("a", 0, 2), lambda: opened.check("a")):
        with pytest.raises(ObjectOverwritten):
            read()


def test_the_same_bytes_written_again_are_still_the_snapshot(clock):
    store = memory_store()
    publish(store, clock, {"a": b"bytes"})
    opened = snapshot.open(store, "market", epoch=1)
    store.put("data/market/a", b"bytes")
    assert opened.read_range("a", 1, 3) == b"yt"


def test_a_big_object_is_read_in_pinned_ranges(clock, monkeypatch):
    monkeypatch.setattr(filesystem, "WHOLE_BYTES", 10)
    store = memory_store()
    body = bytes(range(200))
    publish(store, clock, {"big": body})
    opened = snapshot.open(store, "market", epoch=1)
    fs = opened.filesystem()
    assert fs.cat_file("big", 10, 20) == body[10:20]
    assert fs.cat_file("big", -5, None) == body[-5:]
    with fs.open("big", block_size=32) as file:
        file.seek(150)
        assert file.read(10) == body[150:160]
        file.seek(0)
        assert file.read() == body
    with fs.open("big", block_size=32) as file:
        assert file.read(4) == body[:4]
        store.put("data/market/big", bytes(200))
        file.seek(100)
        with pytest.raises(ObjectOverwritten):
            file.read(50)


def test_bytes_that_rotted_are_found_whole_and_with_verify_before_a_range(clock, monkeypatch):
    monkeypatch.setattr(filesystem, "WHOLE_BYTES", 10)

    class Rotten(StoreDecorator):
        """Bytes change, the version does not."""

        bad = False

        def get(self, key, **kwargs):
            data = self.inner.get(key, **kwargs)
            return data.replace(b"7", b"8") if self.bad else data

        def open(self, key, **kwargs):
            reader = self.inner.open(key, **kwargs)
            return replace(reader, chunks=(chunk.replace(b"7", b"8") if self.bad else chunk for chunk in reader))

    store = Rotten(memory_store())
    publish(store, clock, {"big": b"0123456789" * 10, "small": b"7"})
    opened = snapshot.open(store, "market", epoch=1)
    store.bad = True
    with pytest.raises(ObjectDamaged):
        opened.filesystem().cat_file("small", 0, 1)
    with pytest.raises(ObjectDamaged):
        opened.filesystem().cat_file("big")
    with pytest.raises(ObjectDamaged):
        opened.filesystem(verify=True).cat_file("big", 0, 3)
    assert opened.filesystem().cat_file("big", 0, 3) == b"012"  # pinned, not hashed: the docstring says so


def test_an_arrow_dataset_and_pandas_read_one_snapshot(clock):
    pads = pytest.importorskip("pyarrow.dataset")
    store = memory_store()
    publish(store, clock, {"y=1/a.parquet": parquet(1), "y=2/a.parquet": parquet(2), "_SUCCESS": b""})
    opened = snapshot.open(store, "market", epoch=1)
    dataset = opened.dataset(partitioning="hive")
    publish(store, clock, {"y=3/a.parquet": parquet(3)})
    assert dataset.to_table(filter=pads.field("y") == 2)["x"].to_pylist() == [2]
    assert dataset.count_rows() == 2
    pd = pytest.importorskip("pandas")
    frame = pd.read_parquet("y=1/a.parquet", filesystem=opened.filesystem())
    assert frame["x"].tolist() == [1]
    with pytest.raises(NotInSnapshot):
        opened.dataset(["y=3/a.parquet"])


def test_a_snapshot_cannot_be_written_through_its_file_system_nor_sent_away(clock):
    store = memory_store()
    publish(store, clock, {"a": b"x"})
    fs = snapshot.open(store, "market", epoch=1).filesystem()
    writes = (
        lambda: fs.open("a", "wb"),
        lambda: fs.rm("a"),
        lambda: fs.pipe("a", b"y"),
        lambda: fs.mkdir("b"),
        lambda: fs.mv("a", "b"),
        lambda: fs.touch("a"),
        lambda: pickle.dumps(fs),
    )
    for write in writes:
        with pytest.raises(SnapshotIsReadOnly):
            write()
    assert store.get("data/market/a") == b"x"


def test_a_key_that_is_also_a_folder_is_both(clock):
    store = memory_store()
    publish(store, clock, {"a": b"file", "a/b": b"child"})
    fs = snapshot.open(store, "market", epoch=1).filesystem()
    assert fs.cat_file("a") == b"file"
    assert fs.cat_file("a/b") == b"child"
    assert fs.find("") == ["a", "a/b"]


def test_in_a_bucket_that_keeps_versions_an_overwritten_object_is_read_by_its_version(clock):
    store = Versioned(memory_store())
    publish(store, clock, {"a": b"the old bytes", "b": b"x"})
    opened = snapshot.open(store, "market", epoch=1)
    store.put("data/market/a", b"the new bytes, longer")
    assert opened.read("a") == b"the old bytes"
    assert opened.read_range("a", 4, 7) == b"old"
    store.delete("data/market/a")
    assert opened.read("a") == b"the old bytes"
    assert opened.filesystem().cat_file("a") == b"the old bytes"


def test_objects_whose_version_was_named_by_a_read_are_not_read_again(clock):
    store = Versioned(memory_store())
    first = publish(store, clock, {"a": b"x"})
    opened = snapshot.open(store, "market", epoch=1)
    assert opened.placed["a"].version == "v1"
    again = snapshot.take(store, dataset="market", path="market", clock=clock, previous=first)
    assert again.hashed_objects == 0
    assert again.manifest.digest == first.manifest_digest
