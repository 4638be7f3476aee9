"""A folder as a source: every byte of every file, whatever their size, and nothing that changed meanwhile."""

from __future__ import annotations

import errno
import os
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.vault.chunking import TABLES, Chunker
from holdfast.engine.vault.errors import SourceChanged, SourceFailed
from holdfast.engine.vault.sources import TreeSource
from holdfast.errors import HoldfastError
from vault_world import VaultWorld, read_tree

KIB = 1024


def source(folder: Path) -> TreeSource:
    return TreeSource("tree", folder, datetime.now(UTC))


@pytest.mark.parametrize("size", [0, 1, 512 * KIB - 1, 512 * KIB, 512 * KIB + 1, 1024 * KIB, 1024 * KIB + 1, 3_000_000])
def test_a_file_of_any_size_comes_back(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "file").write_bytes(random.Random(size).randbytes(size))
    world = VaultWorld().make()
    world.back_up(folder)
    world.restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == read_tree(folder)


@pytest.mark.parametrize("size", [10, 2_000_000])
@pytest.mark.parametrize("other", [b"longer than it was ", b"", b"0123456789"])
def test_a_file_that_changed_since_it_was_listed_is_no_backup(tmp_path: Path, size: int, other: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(size))
    tree = source(tmp_path)
    (item,) = tree.objects()
    file.write_bytes(other * 3)
    with pytest.raises(SourceChanged):
        list(tree.read(item))


def test_a_stream_is_cut_where_the_whole_is(tmp_path: Path) -> None:
    """In one piece, in pieces that are used again, in small ones: the chunks are the same."""
    data = random.Random(3).randbytes(5_000_000)
    (tmp_path / "file").write_bytes(data)
    tree = source(tmp_path)
    (item,) = tree.objects()
    chunker = Chunker(TABLES, 7)
    whole = [bytes(chunk) for chunk in chunker.cut(data)]
    assert b"".join(whole) == data
    assert [bytes(chunk) for chunk in chunker.cut_stream(tree.read(item))] == whole
    small = (data[at : at + 999] for at in range(0, len(data), 999))
    assert [bytes(chunk) for chunk in chunker.cut_stream(small)] == whole


def refusing(monkeypatch: pytest.MonkeyPatch, call: str, cause: int) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise OSError(cause, os.strerror(cause), *[one for one in _arguments if isinstance(one, str)])

    monkeypatch.setattr(f"holdfast.engine.vault.sources.os.{call}", refuse)


@pytest.mark.parametrize("call", ["scandir", "open", "read", "readv", "fstat"])
@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (errno.EACCES, SourceFailed),
        (errno.EIO, SourceFailed),
        (errno.EMFILE, SourceFailed),
        (errno.ENOENT, SourceChanged),
        (errno.ENOTDIR, SourceChanged),
        (errno.ESTALE, SourceChanged),
    ],
)
def test_what_the_disk_refuses_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, cause: int, kind: type[HoldfastError]
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "small").write_bytes(b"x")
    (folder / "large").write_bytes(bytes(2_000_000))
    world = VaultWorld().make()
    with monkeypatch.context() as patched:
        refusing(patched, call, cause)
        with pytest.raises(kind) as raised:
            world.back_up(folder)
    assert str(folder) in str(raised.value)
    assert os.strerror(cause) in str(raised.value)
    assert not world.open().history.backups
    world.back_up(folder)
    world.restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == read_tree(folder)


def test_a_file_that_became_a_pipe_or_a_link_is_no_backup_and_nobody_waits(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for replace in (lambda: os.mkfifo(file), lambda: file.symlink_to("/etc/hostname"), lambda: file.mkdir()):
        file.write_bytes(b"x")
        tree = source(tmp_path)
        (item,) = tree.objects()
        file.unlink()
        replace()
        with pytest.raises((SourceChanged, SourceFailed)):
            list(tree.read(item))
        file.rmdir() if file.is_dir() else file.unlink()


def test_a_folder_deeper_than_pythons_stack_is_walked(tmp_path: Path) -> None:
    folders = [tmp_path / "source"]
    folders.extend(Path(f"{tmp_path}/source{'/d' * depth}") for depth in range(1, 1200))
    for folder in folders:
        folder.mkdir()
    (folders[-1] / "file").write_bytes(b"x")
    try:
        assert [item.path for item in source(folders[0]).objects()] == ["d/" * 1199 + "file"]
    finally:
        (folders[-1] / "file").unlink()
        for folder in reversed(folders):
            folder.rmdir()


def test_a_time_no_calendar_has_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    os.utime(file, (0, 300_000_000_000))  # in the year 11476
    (item,) = source(tmp_path).objects()
    year = file.stat().st_mtime
    assert item.modified_at is None or year < 253_402_300_800  # a file system that cannot keep it
    assert list(source(tmp_path).read(item)) == [b"x"]


def test_what_is_passed_over_is_named_once_however_often_it_is_walked(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    tree = source(tmp_path)
    for _ in range(2):
        assert list(tree.objects()) == []
        assert tree.skipped == ["link"]
