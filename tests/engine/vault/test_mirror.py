"""What a copy to a mirror says it did."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.vault.mirror import mirror_vault, trim_mirror
from vault_world import VaultWorld, some_files, write_tree


class Vanishing(StoreDecorator):
    """A store that lists an object which is gone when it is read."""

    def __init__(self, inner: Any, key: str) -> None:
        super().__init__(inner)
        self._key = key

    def get(self, key: str, **options: Any) -> Any:
        if key == self._key:
            raise ObjectNotFound("collected meanwhile", where=key)
        return super().get(key, **options)


def test_what_vanishes_while_it_is_copied_is_not_counted(tmp_path: Path) -> None:
    world = VaultWorld().make()
    write_tree(tmp_path, some_files())
    world.back_up(tmp_path)
    first = next(iter(world.store.list("packs/")))
    mirror = memory_store("mirror")
    report = mirror_vault(Vanishing(world.store, first.key), mirror)
    copied = [info for info in mirror.list() if not info.key.startswith("head")]
    assert (report.copied, report.problems) == (len(copied), [])
    assert report.copied_bytes == sum(info.size_bytes for info in copied)
    assert first.key not in {info.key for info in copied}
    assert mirror_vault(world.store, mirror).copied == 1


def test_questions_for_a_mirrors_time_go_when_they_are_old(tmp_path: Path) -> None:
    """Whoever may not remove leaves them there."""
    world = VaultWorld().make()
    write_tree(tmp_path, some_files())
    world.back_up(tmp_path)
    mirror = memory_store("mirror")
    mirror_vault(world.store, mirror)
    mirror.put("clock/left", b"what time is it")
    vault = replace(world, store=mirror).open("admin")
    assert trim_mirror(vault).removed == 0
    before = {info.key for info in mirror.list()}
    assert trim_mirror(vault, orphan_age=timedelta(days=-1)).removed == 1
    assert before - {info.key for info in mirror.list()} == {"clock/left"}
