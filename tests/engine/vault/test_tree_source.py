"""A folder as a source: every byte of every file, whatever their size, and nothing that changed meanwhile."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.engine.vault.chunking import TABLES, Chunker
from holdfast.engine.vault.errors import SourceChanged
from holdfast.engine.vault.sources import TreeSource
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
