"""A backup restored into a site's live layout: readers select it, nothing that was there is touched."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.config import Residency, Site
from holdfast.engine.config.residency import ResidencyRefused
from holdfast.engine.objectstore import local_store, memory_store
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.snapshot import (
    EpochUnknownHere,
    begin_epoch,
    latest,
    new_fork,
    open_snapshot,
    put_snapshot,
    selectable,
    take_and_publish,
    verify,
)
from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.backups import find_backup
from holdfast.engine.vault.errors import Damaged, NotActive, UnsafePath
from holdfast.engine.vault.published import RESTORED_FROM, RESTORED_SNAPSHOT, restore_as_snapshot
from holdfast.engine.vault.restore import RestoreOptions
from holdfast.engine.vault.sources import SnapshotSource, TreeSource
from holdfast.errors import ConfigError
from vault_world import SMALL, VaultWorld, write_tree

LARGE = random.Random(7).randbytes(9 * 1024 * 1024)
FILES = {"2024/a.bin": b"a" * 1000, "2024/b.bin": random.Random(1).randbytes(50_000), "large.bin": LARGE, "empty": b""}
HERE = Site(cloud="aws", region="eu-west-1", jurisdiction="EU", connection="c", bucket="b")


@dataclass
class Active:
    epoch: int
    active_site: str


class World:
    """A site with a published dataset, and a vault with a backup of it."""

    def __init__(self, store=None):
        self.clock = FakeClock()
        self.vault = VaultWorld(clock=self.clock).make()
        self.store = store or memory_store("here")
        self.source = memory_store("source")
        for name, data in FILES.items():
            self.source.put(f"data/market/{name}", data)
        self.first = take_and_publish(
            self.source, dataset="market", path="market", epoch=1, site="there", clock=self.clock, labels={"kind": "x"}
        )
        self.backup = self.back_up(self.first)

    def back_up(self, record):
        source = SnapshotSource("market", "there", open_snapshot(self.source, record))
        return back_up(self.vault.open(), source, SMALL).backup

    def restore(self, backup=None, *, store=None, epoch=1, **kwargs):
        self.clock.advance(1)
        vault = self.vault.open("reader")
        wanted = find_backup(vault, (backup or self.backup).backup_id)
        return restore_as_snapshot(
            vault, wanted, store or self.store, site="here", epoch=epoch, clock=self.clock, **kwargs
        )

    def see(self, epoch=1):
        record = latest(self.store, "market", epoch=epoch)
        opened = open_snapshot(self.store, record)
        return {path: opened.read(path) for path in opened.manifest.paths}

    def take(self, epoch=1):
        self.clock.advance(1)
        return take_and_publish(self.store, dataset="market", path="market", epoch=epoch, site="here", clock=self.clock)


@pytest.fixture(params=["memory", "local"])
def world(request, tmp_path):
    (tmp_path / "here").mkdir()
    return World(local_store("here", tmp_path / "here") if request.param == "local" else None)


def test_an_empty_site_gets_the_snapshot_and_readers_select_it(world):
    done = world.restore()
    assert world.see() == FILES
    assert done.made
    assert done.record.labels[RESTORED_FROM] == world.backup.backup_id
    assert done.record.labels[RESTORED_SNAPSHOT] == world.first.snapshot_id
    assert done.record.labels["kind"] == "x"
    assert verify(world.store, done.record).ok
    # A writer's next snapshot begins from it.
    world.store.put("data/market/new.bin", b"new")
    world.take()
    assert world.see() == {**FILES, "new.bin": b"new"}


def test_what_is_there_is_not_touched_and_not_taken_for_new_data(world):
    theirs = {"2024/a.bin": b"other bytes", "added.bin": b"added"}
    for name, data in theirs.items():
        world.store.put(f"data/market/{name}", data)
    before = world.take()
    done = world.restore()
    assert done.record.parent == before.snapshot_id
    assert world.see() == FILES
    assert {name: world.store.get(f"data/market/{name}") for name in theirs} == theirs
    assert {name: open_snapshot(world.store, before).read(name) for name in theirs} == theirs
    world.take()
    assert world.see() == FILES, "the older bytes came back as new data"
    world.store.put("data/market/added.bin", b"again")
    world.take()
    assert world.see() == {**FILES, "added.bin": b"again"}


def test_the_folder_follows_where_that_is_asked_for():
    world = World()
    world.store.put("data/market/2024/a.bin", b"other bytes")
    world.take()
    done = world.restore(restore_live=True)
    assert done.live.restored == ("2024/a.bin",)
    assert world.store.get("data/market/2024/a.bin") == FILES["2024/a.bin"]
    assert world.see() == FILES


def test_staged_layouts_get_nothing_at_their_own_keys(world):
    done = world.restore(own_keys=False)
    assert done.own_keys == 0
    assert world.see() == FILES
    assert all(info.key.startswith("data/market/.versions/") for info in world.store.list("data/market/"))


def test_a_second_call_makes_no_second_snapshot_until_something_changed(world):
    first, second = world.restore(), world.restore()
    assert (second.record, second.made, second.restored.restored) == (first.record, False, 0)
    world.store.put("data/market/new.bin", b"new")
    world.take()
    third = world.restore()
    assert third.made
    assert world.see() == FILES


class Breaks:
    """A store that does not answer from its n-th write on."""

    def __init__(self, inner, writes):
        self.inner, self.left = inner, writes

    def put(self, key, data, **kwargs):
        self.left -= 1
        if self.left < 0:
            raise StoreUnavailable("gone", where=key)
        return self.inner.put(key, data, **kwargs)

    def parts(self):
        return None

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_a_restore_that_breaks_off_anywhere_publishes_nothing_and_goes_on(world):
    kept = 0
    for writes in range(20):
        try:
            done = world.restore(store=Breaks(world.store, writes))
            break
        except StoreUnavailable:
            if latest(world.store, "market", epoch=1) is not None:
                assert world.see() == FILES  # the commit was the last write that came through
    assert done.restored.kept >= kept
    assert done.restored.restored <= 1, "what lay there already was written again"
    assert world.see() == FILES


def test_bytes_left_by_a_broken_restore_are_no_new_data():
    world = World()
    world.store.put("data/market/mine.bin", b"mine")
    world.take()
    with pytest.raises(StoreUnavailable):
        world.restore(store=Breaks(world.store, 2))
    assert [info.key for info in world.store.list("data/market/2024")]
    world.take()
    assert world.see() == {"mine.bin": b"mine"}


def test_residency_is_asked_first(world):
    class Untouchable:
        name = "untouchable"

    with pytest.raises(ResidencyRefused):
        world.restore(store=Untouchable(), residency=Residency(jurisdictions=("CH",)), sites={"here": HERE})
    world.restore(residency=Residency(jurisdictions=("EU",)), sites={"here": HERE})


@pytest.mark.parametrize("now", [Active(1, "another"), Active(2, "here")])
def test_only_the_active_site_of_the_newest_epoch_gets_it(world, now):
    with pytest.raises(NotActive):
        world.restore(active=lambda: now)
    assert latest(world.store, "market", epoch=1) is None
    assert not list(world.store.list("data/"))


def test_an_epoch_that_ends_meanwhile_gets_no_snapshot(world):
    answers = iter([Active(1, "here"), Active(2, "another")])
    with pytest.raises(NotActive):
        world.restore(active=lambda: next(answers))
    assert not selectable(world.store, "market", epoch=1)


def test_a_bucket_that_knows_a_newer_epoch_refuses_the_older(world):
    world.store.put("data/market/mine.bin", b"mine")
    record = world.take()
    fork = new_fork(
        "market",
        epoch=2,
        parent_epoch=1,
        forked_from=record.snapshot_id,
        site="here",
        plan_id="p",
        holder="h",
        reason="r",
        created_at=world.clock.now(),
    )
    begin_epoch(world.store, record, fork)
    with pytest.raises(NotActive):
        world.restore(epoch=1)
    with pytest.raises(EpochUnknownHere):
        world.restore(epoch=3)
    done = world.restore(epoch=2)
    assert done.record.parent == record.snapshot_id
    assert world.see(epoch=2) == FILES


def test_a_site_that_lost_everything_begins_in_a_later_epoch(world):
    world.restore(epoch=4)
    assert world.see(epoch=4) == FILES


def test_a_damaged_backup_publishes_nothing(world):
    for info in list(world.vault.store.list("packs/")):
        data = bytearray(world.vault.store.get(info.key))
        if len(data) > 100_000:
            data[len(data) // 2] ^= 1
            world.vault.store.put(info.key, bytes(data))
    with pytest.raises(Damaged):
        world.restore()
    assert latest(world.store, "market", epoch=1) is None


def test_a_folder_can_become_a_dataset_and_needs_a_name(world, tmp_path):
    write_tree(tmp_path / "tree", {"x/y": b"1", "z": b"2"})
    made = back_up(world.vault.open(), TreeSource("tree", tmp_path / "tree", world.clock.now()), SMALL).backup
    with pytest.raises(ConfigError, match="dataset"):
        world.restore(made)
    world.restore(made, dataset="market", path="elsewhere")
    assert world.see() == {"x/y": b"1", "z": b"2"}


def test_a_folder_outside_the_datas_is_refused(world):
    for path in ("../snapshots/market", "a/../../b", "/etc"):
        with pytest.raises(UnsafePath):
            world.restore(path=path)


def test_a_path_of_the_layout_itself_is_refused(world, tmp_path):
    write_tree(tmp_path / "tree", {".versions/0123456789abcdef/x": b"1"})
    made = back_up(world.vault.open(), TreeSource("tree", tmp_path / "tree", world.clock.now()), SMALL).backup
    with pytest.raises(UnsafePath):
        world.restore(made, dataset="market", path="market")


def test_a_part_of_a_backup_is_no_snapshot(world):
    with pytest.raises(ConfigError, match="whole"):
        world.restore(options=RestoreOptions(paths=("2024",)))


def test_a_model_is_served_again_with_its_labels(world):
    model = put_snapshot(
        world.source,
        dataset="model",
        files={"model.bin": b"weights"},
        epoch=1,
        site="there",
        labels={"model_digest": "blake3:ab", "run": "r"},
        clock=world.clock,
    )
    source = SnapshotSource("model", "there", open_snapshot(world.source, model))
    made = back_up(world.vault.open(), source, SMALL).backup
    done = world.restore(made)
    found = latest(world.store, "model", epoch=1)
    assert found == done.record
    assert (found.labels["model_digest"], found.labels["run"], found.path) == ("blake3:ab", "r", model.path)
    assert open_snapshot(world.store, found).read("model.bin") == b"weights"
