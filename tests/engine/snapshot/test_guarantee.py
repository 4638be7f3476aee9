"""What `sync status` says of point in time: held, not held with the reason, or unknown; unknown is never yes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.snapshot import open_snapshot, point_in_time, put_snapshot, take_and_publish
from holdfast.engine.snapshot.guarantee import judge
from holdfast.engine.snapshot.keys import version_key
from holdfast.engine.snapshot.placement import write_placement


class Unmeasured(StoreDecorator):
    """A bucket of which nobody knows whether it keeps versions."""

    def capabilities(self):
        return replace(self.inner.capabilities(), versions=None)


@pytest.fixture
def store():
    return memory_store()


@pytest.fixture
def record(store):
    store.put("data/market/a", b"x")
    store.put("data/market/b", b"y")
    return take_and_publish(store, dataset="market", path="market", epoch=1, site="aws", clock=FakeClock())


def test_a_direct_layout_in_an_unversioned_bucket_is_not_point_in_time(store, record):
    found = point_in_time(store, record)
    assert (found.holds, found.how, found.exposed_objects, found.total_objects) == (False, "direct layout", 2, 2)
    assert found.text.startswith("not point-in-time: 2 of 2 objects lie at their own keys")


def test_not_knowing_whether_a_bucket_keeps_versions_is_not_yes(store, record):
    assert point_in_time(Unmeasured(store), record).holds is None
    # Versions kept, but none named: nothing to read an overwritten object by.
    assert point_in_time(store, record, versioned=True).holds is None


def test_a_versioned_bucket_holds_when_every_version_is_named(store, record):
    opened = open_snapshot(store, record)
    named = {path: replace(row, version="7") for path, row in opened.placed.items()}
    found = judge(replace(opened, placed=named), True)
    assert (found.holds, found.how) == (True, "versioned bucket")


def test_staged_objects_hold_whatever_the_bucket(store, record):
    opened = open_snapshot(store, record)
    rows = []
    for entry in opened.manifest.entries():
        key = version_key("market", entry.path, entry.digest)
        store.put(key, store.get(f"data/market/{entry.path}"))
        rows.append(replace(opened.placed[entry.path], key=key))
    write_placement(store, record, "aws", rows)
    assert point_in_time(Unmeasured(store), record).how == "write-once keys"
    assert point_in_time(store, record).holds is True


def test_a_folder_named_for_its_content_holds(store):
    model = put_snapshot(
        store, dataset="model", files={"weights": b"w"}, epoch=1, site="aws", labels={}, clock=FakeClock()
    )
    assert point_in_time(store, model).holds is True
