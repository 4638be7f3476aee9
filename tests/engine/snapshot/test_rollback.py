"""A rollback publishes earlier content anew and stays: nothing is rewritten, nothing undone silently, nothing lost."""

from __future__ import annotations

import pytest

from holdfast.clock import FakeClock
from holdfast.engine import snapshot
from holdfast.engine.config import Site
from holdfast.engine.objectstore import local_store, memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import NotSupported
from holdfast.engine.replication import replicate
from holdfast.engine.snapshot import BytesGone, latest, records, restore, rollback, take_and_publish, verify

SITES = {
    "aws": Site(cloud="aws", region="eu-west-1", jurisdiction="EU", connection="c", bucket="b"),
    "gcp": Site(cloud="gcp", region="europe-west1", jurisdiction="EU", connection="c", bucket="b"),
}


class World:
    def __init__(self):
        self.stores = {name: memory_store(name) for name in SITES}
        self.clock = FakeClock()

    def write(self, site="aws", **files):
        for name, data in files.items():
            self.stores[site].put(f"data/market/{name}", data)

    def publish(self, site="aws", store=None):
        self.clock.advance(1)
        return take_and_publish(
            store or self.stores[site], dataset="market", path="market", epoch=1, site=site, clock=self.clock
        )

    def bring(self, record, source="aws", target="gcp"):
        self.clock.advance(1)
        return replicate(
            self.stores[source],
            self.stores[target],
            record=record,
            source_site=source,
            target_site=target,
            residency=None,
            topology_sites=SITES,
            clock=self.clock,
        )

    def roll(self, record, site="aws", stores=None, **kwargs):
        self.clock.advance(1)
        return rollback(
            self.stores if stores is None else stores,
            "market",
            to=record.snapshot_id,
            epoch=1,
            site=site,
            clock=self.clock,
            reason="bad load",
            **kwargs,
        )

    def see(self, site="aws", record=None):
        opened = snapshot.open(self.stores[site], "market", epoch=1, snapshot_id=record.snapshot_id if record else None)
        return {path: opened.read(path) for path in opened.manifest.paths}

    def live(self, site="aws"):
        prefix = "data/market/"
        infos = self.stores[site].list(prefix)
        return {
            info.key.removeprefix(prefix): self.stores[site].get(info.key)
            for info in infos
            if "/.versions/" not in info.key
        }


@pytest.fixture
def world():
    """Two snapshots, both at both sites; the second overwrote `a`, removed `b`, added `c`."""
    world = World()
    world.write(a=b"old a", b=b"b", same=b"same")
    world.first = world.publish()
    world.bring(world.first)
    world.write(a=b"new a", c=b"c")
    world.stores["aws"].delete("data/market/b")
    world.second = world.publish()
    world.bring(world.second)
    return world


OLD = {"a": b"old a", "b": b"b", "same": b"same"}
NEW = {"a": b"new a", "c": b"c", "same": b"same"}


def test_a_rollback_is_a_new_snapshot_of_the_old_content_on_top_of_the_line(world):
    record = world.roll(world.first)
    assert latest(world.stores["aws"], "market", epoch=1) == record
    assert record.parent == world.second.snapshot_id
    assert record.manifest_digest == world.first.manifest_digest
    assert record.labels == {
        "rolled_back_to": world.first.snapshot_id,
        "rolled_back_from": world.second.snapshot_id,
        "rollback_reason": "bad load",
    }
    assert world.see() == OLD
    assert [r.snapshot_id for r in records(world.stores["aws"], "market")][:2] == [
        world.first.snapshot_id,
        world.second.snapshot_id,
    ]
    assert world.see(record=world.second) == NEW
    assert world.live() == NEW  # the folder does not change
    assert verify(world.stores["aws"], record).ok


def test_a_take_after_a_rollback_does_not_undo_it(world):
    world.roll(world.first)
    world.publish()
    assert world.see() == OLD
    world.publish()
    assert world.see() == OLD


def test_what_is_written_after_a_rollback_is_new_data(world):
    world.roll(world.first)
    world.write(a=b"newest a", d=b"d")
    world.publish()
    assert world.see() == {**OLD, "a": b"newest a", "d": b"d"}


def test_what_is_written_during_a_rollback_is_new_data(world):
    class Late(StoreDecorator):
        """A writer overwrites an object after the folder was listed."""

        done = False

        def put(self, key, data, **kwargs):
            if "/.versions/" in key and not self.done:
                self.done = True
                self.inner.put("data/market/c", b"late c")
                self.inner.put("data/market/a", b"late a")
            return self.inner.put(key, data, **kwargs)

    world.roll(world.first, stores={**world.stores, "aws": Late(world.stores["aws"])})
    assert world.see() == OLD
    world.publish()
    assert world.see() == {**OLD, "a": b"late a", "c": b"late c"}


def test_the_others_get_a_rollback_by_the_next_replication(world):
    record = world.roll(world.first)
    report = world.bring(record)
    assert report.copied_objects == 0  # the replica never lost the old bytes
    assert world.see("gcp") == OLD


def test_bytes_that_are_gone_everywhere_are_listed_and_nothing_is_published(world):
    with pytest.raises(BytesGone) as refused:
        world.roll(world.first, stores={"aws": world.stores["aws"]})
    assert refused.value.missing == ("a", "b")
    assert latest(world.stores["aws"], "market", epoch=1) == world.second
    assert world.see() == NEW


def test_a_rollback_asked_again_is_the_one_that_was_made(world):
    assert world.roll(world.first) == world.roll(world.first)


def test_a_rollback_that_was_cut_off_at_any_write_goes_on(world):
    class Cut(Exception):
        pass

    class Cutting(StoreDecorator):
        left = 0

        def put(self, key, data, **kwargs):
            self.left -= 1
            if self.left < 0:
                raise Cut
            return self.inner.put(key, data, **kwargs)

    for allowed in range(20):
        store = Cutting(world.stores["aws"])
        store.left = allowed
        try:
            world.roll(world.first, stores={**world.stores, "aws": store})
        except Cut:
            assert world.see() == NEW
        else:
            break
    assert world.see() == OLD
    assert allowed >= 3  # manifest, placement, record; the objects brought before a cut are found


def test_forward_again_is_a_rollback_to_the_newer_one(world):
    world.roll(world.first)
    record = world.roll(world.second)
    assert world.see() == NEW
    assert record.labels["rolled_back_to"] == world.second.snapshot_id
    world.publish()
    assert world.see() == NEW


def test_a_live_folder_follows_when_asked_and_older_readers_keep_their_bytes(world):
    opened = snapshot.open(world.stores["aws"], "market", epoch=1)
    record = world.roll(world.first, restore_live=True)
    assert world.live() == {**OLD, "c": b"c"}  # what is not in the snapshot stays
    assert opened.read("a") == b"new a"
    assert world.see(record=world.second) == NEW
    world.publish()
    assert world.see() == OLD
    assert verify(world.stores["aws"], world.second).ok
    again = restore(world.stores["aws"], record)
    assert (again.restored, again.written_since, again.extra) == ((), (), ("c",))


def test_a_restore_never_overwrites_what_was_written_since(world):
    record = world.roll(world.first)
    world.write(a=b"since")
    world.stores["aws"].delete("data/market/same")
    report = restore(world.stores["aws"], record)
    assert report.written_since == ("a", "same")
    assert report.restored == ("b",)
    assert world.live()["a"] == b"since"


def test_a_restore_is_refused_where_a_store_cannot_compare(tmp_path, world):
    folder = tmp_path / "bucket"
    folder.mkdir()
    world.stores["aws"] = local_store("aws", folder)
    world.stores["gcp"] = memory_store("gcp")
    world.write(a=b"old")
    first = world.publish()
    world.bring(first)
    world.write(a=b"new")
    world.publish()
    record = world.roll(first)
    assert world.see() == {"a": b"old"}
    with pytest.raises(NotSupported):
        restore(world.stores["aws"], record)
    assert world.live() == {"a": b"new"}


def test_an_object_removed_after_a_restore_leaves_the_dataset(world):
    world.roll(world.first, restore_live=True)
    world.stores["aws"].delete("data/market/b")
    world.publish()
    assert world.see() == {"a": b"old a", "same": b"same"}


def test_a_rollback_after_the_folder_changed_is_another_one(world):
    first = world.roll(world.first, restore_live=True)
    world.stores["aws"].delete("data/market/a")
    second = world.roll(world.first, restore_live=True)
    assert second.snapshot_id != first.snapshot_id
    assert world.live() == {**OLD, "c": b"c"}
    assert world.roll(world.first, restore_live=True) == second
