"""A folder to restore to that is not as it should be: full, read-only, in the way. One error, and it goes on later."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.vault.backups import find_backup
from holdfast.engine.vault.errors import TargetFailed
from holdfast.engine.vault.restore import RestoreOptions, restore_backup
from holdfast.engine.vault.targets import FolderTarget
from holdfast.engine.vault.tree import TreeRow
from holdfast.errors import ConfigError, Refused
from vault_world import VaultWorld, read_tree, write_tree

FILES = {"a.txt": b"first", "deep/er/b.txt": b"second" * 20_000, "deep/c.txt": b"third", "new/z.txt": b"last"}


@pytest.fixture
def world(tmp_path: Path) -> VaultWorld:
    made = VaultWorld().make()
    write_tree(tmp_path / "source", FILES)
    made.back_up(tmp_path / "source")
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def restore(world: VaultWorld, folder: Path, *, overwrite: bool = False, keep_going: bool = False) -> None:
    vault = world.open("reader")
    options = RestoreOptions(keep_going=keep_going)
    restore_backup(vault, find_backup(vault), FolderTarget(folder, overwrite=overwrite), options)


def row(path: str, data: bytes) -> TreeRow:
    return TreeRow(path, len(data), digest_of(data), None, None, None, ())


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_in_the_way_of_a_file_is_never_replaced(world: VaultWorld, out: Path, overwrite: bool) -> None:
    write_tree(out, {"a.txt/mine": b"mine"})
    with pytest.raises(Refused, match=r"a\.txt: a folder is where a file belongs"):
        restore(world, out, overwrite=overwrite)
    assert (out / "a.txt" / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_way_of_a_folder_is_refused(world: VaultWorld, out: Path, overwrite: bool) -> None:
    write_tree(out, {"deep": b"mine"})
    with pytest.raises(Refused, match="no folder stands in the way"):
        restore(world, out, overwrite=overwrite)
    assert (out / "deep").read_bytes() == b"mine"


def test_a_link_where_a_file_belongs_is_not_followed_and_replaced_only_when_asked(
    world: VaultWorld, out: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").write_bytes(FILES["a.txt"])  # even when what it leads to has the right content
    out.mkdir()
    (out / "a.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="found a symbolic link"):
        restore(world, out)
    assert (out / "a.txt").is_symlink()
    restore(world, out, overwrite=True)
    assert not (out / "a.txt").is_symlink()
    assert read_tree(out) == FILES


def test_a_pipe_where_a_file_belongs_is_refused_and_nobody_waits(world: VaultWorld, out: Path) -> None:
    out.mkdir()
    os.mkfifo(out / "a.txt")
    with pytest.raises(Refused, match="found a pipe"):
        restore(world, out)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_where_a_folder_belongs_leads_nowhere(
    world: VaultWorld, out: Path, tmp_path: Path, overwrite: bool
) -> None:
    """Neither written through, nor taken for what was restored already when it leads to the right content."""
    write_tree(tmp_path / "elsewhere", {"c.txt": FILES["deep/c.txt"]})
    before = read_tree(tmp_path / "elsewhere")
    out.mkdir()
    (out / "deep").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="no folder stands in the way"):
        restore(world, out, overwrite=overwrite)
    assert read_tree(tmp_path / "elsewhere") == before


@pytest.mark.parametrize("below", ["", "folder"])
def test_a_target_that_is_a_file_is_bad_input(world: VaultWorld, out: Path, below: str) -> None:
    out.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="the target is no folder"):
        restore(world, out / below)
    assert out.read_bytes() == b"mine"


CAUSES = [
    (errno.ENOSPC, "Make room"),
    (errno.EDQUOT, "Make room"),
    (errno.EACCES, "somebody who may write"),
    (errno.EROFS, "another folder"),
    (errno.ENAMETOOLONG, "such names"),
    (errno.EIO, "checked"),
]
#: Which call of its kind fails: by the third something is restored.
CALLS = {"mkdir": 1, "open": 3, "write": 3, "fchmod": 3, "utime": 3, "replace": 3, "stat": 3}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("cause", "fix"), CAUSES, ids=[errno.errorcode[cause] for cause, _ in CAUSES])
def test_what_the_disk_refuses_is_one_clear_error_and_the_restore_goes_on_later(
    world: VaultWorld, out: Path, monkeypatch: pytest.MonkeyPatch, call: str, cause: int, fix: str
) -> None:
    old = b"a good file of before"
    write_tree(out, {"deep/er/b.txt": old})
    real: Callable[..., Any] = getattr(os, call)
    calls = 0

    def refuse(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= CALLS[call]:
            raise OSError(cause, os.strerror(cause))
        return real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(f"holdfast.engine.vault.targets.os.{call}", refuse)
        with pytest.raises(TargetFailed) as raised:
            restore(world, out, overwrite=True)
    assert raised.value.exit_code == 1
    assert fix in str(raised.value)
    assert os.strerror(cause) in str(raised.value)
    assert (out / "deep/er/b.txt").read_bytes() in (old, FILES["deep/er/b.txt"])
    restore(world, out, overwrite=True)
    assert read_tree(out) == FILES
    assert files_of(out) == FILES.keys()


def test_a_full_disk_leaves_no_half_file(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(out, {"file": b"good"})

    def full(_descriptor: int, _data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("holdfast.engine.vault.targets.os.write", full)
    with pytest.raises(TargetFailed):
        FolderTarget(out, overwrite=True).write(row("file", b"other"), iter([b"other"]))
    assert read_tree(out) == {"file": b"good"}


def test_an_interrupted_restore_leaves_no_half_file_and_goes_on(world: VaultWorld, out: Path) -> None:
    def interrupted() -> Iterator[bytes]:
        yield b"fir"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FolderTarget(out).write(row("a.txt", FILES["a.txt"]), interrupted())
    assert files_of(out) == set()
    restore(world, out)
    assert read_tree(out) == FILES


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_came_meanwhile_is_not_lost(out: Path, overwrite: bool) -> None:
    """Another restore ends between the look whether the file is there and the end of this one's write."""
    target = FolderTarget(out, overwrite=overwrite)
    mine, theirs = row("file", b"mine"), row("file", b"theirs")
    assert not target.has(mine)
    FolderTarget(out).write(theirs, iter([b"theirs"]))
    if overwrite:
        target.write(mine, iter([b"mine"]))
        assert read_tree(out) == {"file": b"mine"}
        return
    with pytest.raises(Refused, match="other content is there"):
        target.write(mine, iter([b"mine"]))
    assert read_tree(out) == {"file": b"theirs"}


def test_the_same_file_that_came_meanwhile_is_left_as_it_is(out: Path) -> None:
    mine = row("file", b"same")
    FolderTarget(out).write(mine, iter([b"same"]))
    before = (out / "file").stat().st_ino
    FolderTarget(out).write(mine, iter([b"same"]))
    assert (out / "file").stat().st_ino == before
    assert files_of(out) == {"file"}
