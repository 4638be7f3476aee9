"""Taking a dataset while somebody writes to it: one point in time, or an error."""

from __future__ import annotations

import threading

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.errors import BytesCorrupted
from holdfast.engine.objectstore.interface import ObjectReader
from holdfast.engine.snapshot import DatasetBusy, take


class Watched:
    """A store that calls back before or after an operation, as a concurrent writer would."""

    def __init__(self, store, *, on_open=None, on_list=None) -> None:
        self._store, self._on_open, self._on_list = store, on_open, on_list
        self.lists = 0
        self.opened: list[str] = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    def list(self, prefix="", **kwargs):
        found = list(self._store.list(prefix, **kwargs))
        self.lists += 1
        if self._on_list:
            self._on_list(self.lists)
        return iter(found)

    def open(self, key, **kwargs):
        self.opened.append(key)
        if self._on_open:
            self._on_open(key)
        return self._store.open(key, **kwargs)


@pytest.fixture
def store():
    made = memory_store()
    for name in "abc":
        made.put(f"data/d/{name}", name.encode() * 10)
    return made


def taken(store, **kwargs):
    return take(store, dataset="d", path="d", clock=FakeClock(), threads=1, **kwargs)


def digests(snapshot):
    return {entry.path: entry.digest for entry in snapshot.manifest.entries()}


def test_an_object_overwritten_before_its_read_is_taken_again(store):
    def overwrite(key):
        if key == "data/d/b" and store.get(key) != b"new":
            store.put(key, b"new")

    found = taken(Watched(store, on_open=overwrite))
    assert digests(found) == digests(taken(store))
    assert found.object_count == 3


def test_an_object_overwritten_in_the_middle_of_its_read_is_never_a_mixture(store):
    store.put("data/d/big", b"1" * 20_000_000)
    once = []

    class Midway(Watched):
        def open(self, key, **kwargs):
            reader = self._store.open(key, **kwargs)

            def chunks():
                for chunk in reader:
                    yield chunk
                    if key == "data/d/big" and not once:
                        once.append(1)
                        store.put(key, b"2" * 20_000_000)

            return ObjectReader(info=reader.info, chunks=chunks())

    assert digests(taken(Midway(store))) == digests(taken(store))


def test_one_changed_after_its_read_is_noticed_by_the_second_listing(store):
    """a is read, then b and a change together: a snapshot of old a and new b never was."""

    def write_both(key):
        if key == "data/d/b" and store.get("data/d/a") == b"a" * 10:
            store.put("data/d/a", b"A")
            store.put("data/d/b", b"B")

    assert digests(taken(Watched(store, on_open=write_both))) == digests(taken(store))


def test_added_and_removed_objects_are_noticed(store):
    def change(count):
        if count == 1:
            store.put("data/d/x", b"x")
            store.delete("data/d/a")

    assert set(digests(taken(Watched(store, on_list=change)))) == {"b", "c", "x"}


def test_only_what_moved_is_read_again(store):
    def change(key):
        if key == "data/d/c" and store.get(key) != b"C":
            store.put(key, b"C")

    watched = Watched(store, on_open=change)
    taken(watched)
    assert watched.opened.count("data/d/a") == watched.opened.count("data/d/b") == 1


def test_a_dataset_that_never_rests_is_an_error(store):
    with pytest.raises(DatasetBusy, match="data/d/") as error:
        taken(Watched(store, on_list=lambda count: store.put("data/d/a", str(count).encode())))
    assert error.value.transient


def test_short_reads_are_no_snapshot(store):
    class Short(Watched):
        def open(self, key, **kwargs):
            reader = self._store.open(key, **kwargs)
            return ObjectReader(info=reader.info, chunks=iter([b"".join(reader)[:-1]]))

    with pytest.raises(BytesCorrupted, match="9 bytes"):
        taken(Short(store))


def test_a_store_whose_versions_do_not_identify_content_is_read_again(store):
    from dataclasses import replace

    from holdfast.engine.snapshot import publish

    class Weak(Watched):
        def capabilities(self):
            return replace(self._store.capabilities(), pinned_reads=None)

    first = taken(store)
    record = publish(store, first, epoch=1, site="s", parent=None, clock=FakeClock())
    assert taken(store, previous=record).hashed_objects == 0
    assert taken(Weak(store), previous=record).hashed_objects == 3


def test_memory_stays_bounded(store):
    """Objects are hashed in chunks: at no time more than one chunk per thread is held."""
    held, most, lock = [0], [0], threading.Lock()

    class Counting(Watched):
        def open(self, key, **kwargs):
            reader = self._store.open(key, **kwargs)

            def chunks():
                for chunk in reader:
                    with lock:
                        held[0] += len(chunk)
                        most[0] = max(most[0], held[0])
                    yield chunk
                    with lock:
                        held[0] -= len(chunk)

            return ObjectReader(info=reader.info, chunks=chunks())

    for name in "pqr":
        store.put(f"data/d/{name}", b"x" * 12_000_000)
    take(Counting(store), dataset="d", path="d", clock=FakeClock(), threads=2)
    assert most[0] <= 2 * 4 * 1024 * 1024


def test_versions_and_folder_markers_are_no_objects_of_the_dataset(store):
    store.put("data/d/.versions/0123456789abcdef/a", b"old")
    store.put("data/dd/other", b"another dataset")
    assert set(digests(taken(store))) == {"a", "b", "c"}
