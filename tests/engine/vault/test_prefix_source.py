"""A prefix of a bucket as the source of a backup: a training run that goes on while it is backed up."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.errors import SourceChanged
from holdfast.engine.vault.prefix_source import PrefixSource
from vault_world import SMALL, VaultWorld, read_tree


def run_source(store: ObjectStore) -> PrefixSource:
    return PrefixSource("runs/r", "site", store, "runs/r/", datetime.now(UTC), naming=("checkpoints/",))


@pytest.fixture
def store() -> ObjectStore:
    made = memory_store("site")
    for number in range(3):
        made.put(f"runs/r/blobs/{number}", b"%d" % number * 1000)
        made.put(f"runs/r/checkpoints/{number}.json", b"names blob %d" % number)
    made.put("runs/other/blobs/0", b"another run's")
    return made


def test_a_run_is_backed_up_whole_and_nothing_beside_it(store: ObjectStore, tmp_path: Path) -> None:
    world = VaultWorld().make()
    back_up(world.open(), run_source(store), SMALL)
    world.restore(tmp_path)
    assert read_tree(tmp_path) == {
        info.key.removeprefix("runs/r/"): store.get(info.key) for info in store.list("runs/r/")
    }


def test_what_did_not_change_is_not_read_again(store: ObjectStore) -> None:
    world = VaultWorld().make()
    back_up(world.open(), run_source(store), SMALL)
    store.put("runs/r/blobs/3", b"3" * 1000)
    store.put("runs/r/checkpoints/3.json", b"names blob 3")
    assert back_up(world.open(), run_source(store), SMALL).read_objects == 2


class _Busy(StoreDecorator):
    """A job saves a checkpoint between two listings."""

    lists = 0

    def list(self, prefix: str = "", *, start_after: str | None = None):
        self.lists += 1
        if self.lists == 2:
            self.inner.put("runs/r/blobs/9", b"9")
            self.inner.put("runs/r/checkpoints/9.json", b"names blob 9")
        return self.inner.list(prefix, start_after=start_after)


def test_a_checkpoint_saved_meanwhile_waits_for_the_next_backup(store: ObjectStore, tmp_path: Path) -> None:
    world = VaultWorld().make()
    back_up(world.open(), run_source(_Busy(store)), SMALL)
    world.restore(tmp_path)
    found = read_tree(tmp_path)
    assert "checkpoints/9.json" not in found
    named = {path.partition("/")[2].removesuffix(".json") for path in found if path.startswith("checkpoints/")}
    assert named <= {path.partition("/")[2] for path in found if path.startswith("blobs/")}


class _Collected(StoreDecorator):
    """Retention removes a blob after it was listed."""

    def open(self, key: str, **options):  # type: ignore[no-untyped-def]
        if key.endswith("blobs/1"):
            self.inner.delete(key)
        return self.inner.open(key, **options)


def test_an_object_removed_meanwhile_ends_the_backup(store: ObjectStore) -> None:
    world = VaultWorld().make()
    with pytest.raises(SourceChanged):
        back_up(world.open(), run_source(_Collected(store)), SMALL)
    assert world.open().history.backups == {}
