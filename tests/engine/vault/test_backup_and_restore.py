"""The whole path: back up, change, back up again, restore, forget, collect, restore."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.backups import find_backup
from holdfast.engine.vault.collect import CollectOptions, collect
from holdfast.engine.vault.errors import NotEntitled, RolledBack, UnsafePath, VaultExists, WrongKey
from holdfast.engine.vault.forget import Keep, forget
from holdfast.engine.vault.keysets import unlock
from holdfast.engine.vault.paths import check_paths
from holdfast.engine.vault.reading import ChunkReader
from holdfast.engine.vault.recipients import AgeRecipient
from holdfast.engine.vault.restore import RestoreOptions, restore_backup
from holdfast.engine.vault.sources import TreeSource
from holdfast.engine.vault.targets import FolderTarget
from holdfast.engine.vault.verify import Depth, VerifyOptions, verify_vault
from holdfast.errors import Refused
from vault_world import SMALL, VaultWorld, read_tree, some_files, write_tree

NOW = CollectOptions(grace=timedelta(0), orphan_age=timedelta(0))


@pytest.fixture
def world() -> VaultWorld:
    return VaultWorld().make()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    write_tree(folder, some_files())
    return folder


def test_a_restore_equals_what_was_backed_up(world: VaultWorld, source: Path, tmp_path: Path) -> None:
    report = world.back_up(source)
    assert report.backup.objects == len(some_files())
    restored = world.restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == some_files()
    assert restored.restored == report.backup.objects


def test_what_did_not_change_is_neither_read_nor_stored_again(world: VaultWorld, source: Path) -> None:
    world.back_up(source)
    second = world.back_up(source)
    assert second.read_objects == 0
    assert second.stored.packs == 0
    assert second.backup.objects == len(some_files())


def test_every_backup_stays_as_it_was(world: VaultWorld, source: Path, tmp_path: Path) -> None:
    first = world.back_up(source).backup
    write_tree(source, {"text.csv": b"other", "new/deep/file": b"new"})
    (source / "empty").unlink()
    world.back_up(source)
    world.restore(tmp_path / "old", first.backup_id)
    world.restore(tmp_path / "new")
    assert read_tree(tmp_path / "old") == some_files()
    assert read_tree(tmp_path / "new") == read_tree(source)


def test_paths_and_patterns_choose_what_is_restored(world: VaultWorld, source: Path, tmp_path: Path) -> None:
    world.back_up(source)
    world.restore(tmp_path / "out", options=RestoreOptions(paths=("part-1",), patterns=("*.csv",)))
    wanted = {path for path in some_files() if path.startswith("part-1/") or path.endswith(".csv")}
    assert read_tree(tmp_path / "out").keys() == wanted


def test_a_writer_cannot_read_content(world: VaultWorld, source: Path, tmp_path: Path) -> None:
    world.back_up(source)
    vault = world.open("writer")
    with pytest.raises(NotEntitled):
        restore_backup(vault, find_backup(vault), FolderTarget(tmp_path / "out"))
    assert not (tmp_path / "out").exists() or read_tree(tmp_path / "out") == {}


def test_a_writer_cannot_forget(world: VaultWorld, source: Path) -> None:
    world.back_up(source)
    world.back_up(source)
    with pytest.raises(NotEntitled):
        forget(world.open("writer"), Keep(last=1))


def test_a_key_that_is_none_of_its_recipients_opens_nothing(world: VaultWorld) -> None:
    with pytest.raises(WrongKey):
        unlock(world.store, "reader", [AgeRecipient.make()])


def test_forgotten_bytes_go_and_the_rest_restores(world: VaultWorld, source: Path, tmp_path: Path) -> None:
    world.back_up(source)
    write_tree(source, {path: b"changed" + data for path, data in some_files(seed=9).items()})
    kept = world.back_up(source).backup
    before = sum(info.size_bytes for info in world.store.list("packs/"))
    vault, plan = forget(world.open("admin"), Keep(last=1))
    assert [backup.backup_id for backup, _ in plan.kept] == [kept.backup_id]
    for _ in range(2):
        vault, _ = collect(vault, NOW)
    after = sum(info.size_bytes for info in world.store.list("packs/"))
    assert after < 0.7 * before
    world.restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == read_tree(source)
    assert verify_vault(world.open("reader"), VerifyOptions(depth=Depth.FULL)).is_good


def test_a_backup_that_slept_through_a_collection_loses_nothing(
    world: VaultWorld, source: Path, tmp_path: Path
) -> None:
    """Packs it reuses are gone, and the entries it knew as well: it must notice, and begin anew."""
    world.back_up(source, name="other")
    sleeper = world.open("writer")
    (tmp_path / "nothing").mkdir()
    world.back_up(tmp_path / "nothing", name="other")
    admin, _ = forget(world.open("admin"), Keep(last=1))
    for _ in range(3):
        admin, _ = collect(admin, NOW)
    assert not [info for info in world.store.list("packs/") if info.size_bytes > 100_000]
    mine = back_up(sleeper, TreeSource("mine", source, datetime.now(UTC)), SMALL).backup
    world.restore(tmp_path / "out", mine.backup_id)
    assert read_tree(tmp_path / "out") == read_tree(source)


def test_removing_the_newest_backup_raises_an_alarm(world: VaultWorld, source: Path) -> None:
    world.back_up(source)
    sequence = world.back_up(source).backup.sequence
    for folder in ("log", "log-copies"):
        world.store.delete(f"{folder}/{sequence:012d}.json")
    vault = world.open("writer")
    assert isinstance(vault.alarm, RolledBack)
    with pytest.raises(RolledBack):
        world.back_up(source)
    assert not verify_vault(vault).is_good


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../b", "a//b", "a\0b", "", ".", "a/./b", "C:\\x", "n" * 300]
)
def test_a_path_that_leaves_the_target_is_refused(path: str) -> None:
    with pytest.raises(UnsafePath):
        check_paths([path])


@pytest.mark.parametrize("paths", [("A/b", "a/b"), ("é", "é"), ("a", "a/b"), ("x/A", "X/b", "x/a")])
def test_paths_that_would_be_one_are_refused(paths: tuple[str, ...]) -> None:
    with pytest.raises(UnsafePath):
        check_paths(paths)


def test_a_vault_is_not_made_over_another(world: VaultWorld) -> None:
    keys = [info.key for info in world.store.list("keys/")]
    with pytest.raises(VaultExists):
        world.make()
    assert [info.key for info in world.store.list("keys/")] == keys


def test_two_restores_into_one_folder_do_not_mix(world: VaultWorld, source: Path, tmp_path: Path) -> None:
    """The second comes while the first is in the middle of a file: one of them is refused, and no half file stays."""
    report = world.back_up(source)
    vault = world.open("reader")
    row = next(
        row for row in ChunkReader(vault, vault.load_index().index).rows(report.backup) if row.size_bytes > 50_000
    )
    data = some_files()[row.path]
    first, second = FolderTarget(tmp_path / "out"), FolderTarget(tmp_path / "out")
    refused: list[Refused] = []

    def pieces() -> Iterator[bytes]:
        yield data[:1000]
        try:
            second.write(row, iter([data]))
        except Refused as error:
            refused.append(error)
        yield data[1000:]

    first.write(row, pieces())
    assert [error.what for error in refused] == ["another restore is writing this file"]
    assert read_tree(tmp_path / "out") == {row.path: data}


def test_what_a_killed_restore_left_is_replaced(world: VaultWorld, source: Path, tmp_path: Path) -> None:
    world.back_up(source)
    world.restore(tmp_path / "out")
    name = next(path for path in (tmp_path / "out").iterdir() if path.is_file())
    draft = f".{hashlib.sha256(name.name.encode()).hexdigest()[:32]}.holdfast-part"
    (tmp_path / "out" / draft).write_bytes(b"half")
    name.unlink()
    world.restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == read_tree(source)
