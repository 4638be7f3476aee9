"""What a copy to a mirror says it did."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.vault import layout
from holdfast.engine.vault.errors import HistoryDamaged
from holdfast.engine.vault.keysets import rotate_keys, unlock
from holdfast.engine.vault.log import make_entry
from holdfast.engine.vault.mirror import mirror_vault, trim_mirror
from vault_faults import RECIPIENT, Sites
from vault_faults import some_files as few_files
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


def _rotate_all(sites: Sites, *, at_once: bool) -> None:
    """A new signer for the writer and for the administrator: what a theft of both is answered with."""
    for new in ({"new_signer": True, "new_admin": True},) if at_once else ({"new_signer": True}, {"new_admin": True}):
        writer = unlock(sites.vault, "writer", [RECIPIENT])
        roles = {role: [RECIPIENT] for role, flag in (("writer", "new_signer"), ("admin", "new_admin")) if flag in new}
        rotate_keys(sites.open("admin"), roles, writer=writer, **new)


@pytest.mark.parametrize("mirrored", [False, True], ids=["never-mirrored-between", "mirrored-between"])
@pytest.mark.parametrize("at_once", [False, True], ids=["one-after-the-other", "at-once"])
def test_a_mirror_follows_after_every_key_was_replaced(at_once: bool, mirrored: bool) -> None:
    """All entries of the mirror are signed with keys that may sign no more."""
    sites = Sites().make()
    sites.back_up(few_files(count=2))
    mirror_vault(sites.vault, sites.mirror)
    _rotate_all(sites, at_once=at_once)
    if mirrored:
        assert mirror_vault(sites.vault, sites.mirror).problems == []
    last = sites.back_up(few_files(1, count=2)).backup
    assert mirror_vault(sites.vault, sites.mirror).problems == []
    sites.check_live(at_least=[last.backup_id], store=sites.mirror)


@pytest.mark.parametrize("newer", [0, 1, 2])
def test_a_mirror_on_another_line_is_refused_also_after_the_keys_were_replaced(newer: int) -> None:
    """The vault was put back before what the mirror has, and then its keys were replaced."""
    sites = Sites().make()
    sites.back_up(few_files(count=2))
    other = sites.fork()
    sites.back_up(few_files(1, count=2))
    mirror_vault(sites.vault, sites.mirror)
    _rotate_all(other, at_once=True)
    for number in range(newer):
        other.back_up(few_files(2 + number, count=2))
    before = sites.mirror.objects()
    with pytest.raises(HistoryDamaged, match="hold different histories"):
        mirror_vault(other.vault, sites.mirror)
    assert sites.mirror.objects() == before


def test_entries_a_thief_of_a_replaced_key_left_at_a_mirror_stop_nothing() -> None:
    sites = Sites().make()
    sites.back_up(few_files(count=2))
    mirror_vault(sites.vault, sites.mirror)
    thief = sites.open("writer", store=sites.mirror)
    _rotate_all(sites, at_once=True)
    mirror_vault(sites.vault, sites.mirror)
    number = sites.open().history.tip.sequence + 3
    data = make_entry(
        thief.secrets,
        sequence=number,
        previous=thief.history.tip.digest,
        kind="backup",
        created_at=sites.clock.now(),
        write_id="00" * 16,
        public=thief.history.tip.public,
        body={},
    )
    sites.mirror.put(layout.entry_key(number), data)
    last = sites.back_up(few_files(1, count=2)).backup
    assert mirror_vault(sites.vault, sites.mirror).problems == []
    sites.check_live(at_least=[last.backup_id], store=sites.mirror)


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
