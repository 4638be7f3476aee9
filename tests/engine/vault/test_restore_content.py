"""What a restore writes is what the backup names, whoever wrote the chunks."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.engine.vault import session
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.pack import PackClass, chunk_id
from holdfast.engine.vault.restore import RestoreOptions
from vault_world import VaultWorld, read_tree, write_tree


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VaultWorld:
    """Whoever wrote it gave two contents the same name, as one with the writer's keys could."""

    def named(key: bytes, kind: PackClass, data: bytes | memoryview) -> bytes:
        return chunk_id(key, kind, b"another" if data == b"content" else data)

    monkeypatch.setattr(session, "chunk_id", named)
    write_tree(tmp_path / "source", {"a": b"another", "b": b"content", "c": b"good"})
    world = VaultWorld().make()
    world.back_up(tmp_path / "source")
    return world


def test_other_content_under_a_chunks_name_is_not_restored(world: VaultWorld, tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="not what its backup names"):
        world.restore(tmp_path / "out")
    assert "b" not in read_tree(tmp_path / "out")


def test_what_is_good_is_restored_beside_it(world: VaultWorld, tmp_path: Path) -> None:
    report = world.restore(tmp_path / "out", options=RestoreOptions(keep_going=True))
    assert list(report.damaged) == ["b"]
    assert read_tree(tmp_path / "out") == {"a": b"another", "c": b"good"}
