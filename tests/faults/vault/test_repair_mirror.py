"""Repair of a mirror from its vault: what is wrong there is written anew, and nothing of the vault is touched."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest

from holdfast.engine.vault import layout
from holdfast.engine.vault.errors import HistoryDamaged
from holdfast.engine.vault.forget import Keep, forget
from holdfast.engine.vault.mirror import mirror_vault
from holdfast.engine.vault.repair import RepairOptions, RepairReport, repair_mirror
from sync_harms import Killed, Trace
from vault_faults import KillAtWrite, Sites, some_files, writes_of


@cache
def _mirrored() -> Sites:
    sites = Sites().make()
    sites.back_up(some_files())
    sites.clock.advance(10)
    sites.back_up({**some_files(), "part-1/01": b"x" * 900})
    forget(sites.open("admin"), Keep(last=1))
    sites.back_up({**some_files(), "part-1/04": b"z" * 50})
    mirror_vault(sites.vault, sites.mirror)
    return sites


@pytest.fixture
def sites() -> Sites:
    return _mirrored().fork()


def repair(sites: Sites, role: str = "reader", **options: Any) -> RepairReport:
    return repair_mirror(sites.open(role), sites.mirror_store(), RepairOptions(**options))[0]


def harm(store: Any, keys: list[str], how: str) -> None:
    rng = random.Random(1)
    for key in keys:
        data = store.get(key)
        if how == "missing":
            store.delete(key)
        elif how == "torn":
            store.put(key, data[: len(data) // 2])
        else:
            place = rng.randrange(len(data))
            store.put(key, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def counting(sites: Sites, prefix: str) -> list[str]:
    """What of the vault must lie at the mirror."""
    vault = sites.open()
    history = vault.history
    return {
        layout.LOG: [layout.entry_key(number) for number in history.counting],
        layout.LOG_COPIES: [layout.entry_copy_key(number) for number in history.counting],
        layout.KEYS: [
            layout.keyset_key(one, copy) for one in history.keys.keysets.values() for copy in layout.KEY_COPIES
        ],
        layout.INDEXES: [layout.index_key(name) for name in history.indexes],
        layout.PACKS: [layout.pack_key(info.tier, info.pack_id) for info in vault.load_index().index.packs],
    }[prefix]


@pytest.mark.parametrize("role", ["reader", "writer"])
@pytest.mark.parametrize("how", ["missing", "torn", "flipped"])
@pytest.mark.parametrize("prefix", [layout.LOG, layout.LOG_COPIES, layout.KEYS, layout.INDEXES, layout.PACKS])
def test_what_is_wrong_at_a_mirror_is_written_anew(prefix: str, how: str, role: str, sites: Sites) -> None:
    before = sites.vault.objects()
    keys = counting(sites, prefix)
    harm(sites.mirror, keys, how)
    protected: list[str] = []
    report = repair(sites, role, protect=protected.append)
    assert report.is_whole, (report.lost, report.verified)
    assert {key: sites.mirror.get(key) for key in keys} == {key: before[key] for key in keys}
    assert set(keys) <= set(protected), "each is locked"
    assert sites.vault.objects() == before
    assert repair(sites, role).healed == {}, "nothing is left to do"
    sites.check_live(store=sites.mirror)
    sites.check_verifies(store=sites.mirror)


def test_everything_but_one_entry_at_once(sites: Sites) -> None:
    number = sites.open().history.anchor_at
    for prefix in (layout.LOG, layout.LOG_COPIES, layout.KEYS, layout.INDEXES, layout.PACKS):
        keys = [key for key in counting(sites, prefix) if key != layout.entry_key(number)]
        harm(sites.mirror, keys, "flipped")
    assert repair(sites).is_whole
    sites.check_live(store=sites.mirror)
    sites.back_up(some_files(3))
    assert mirror_vault(sites.vault, sites.mirror).problems == []


def test_mirroring_alone_says_what_helps_where_sizes_differ(sites: Sites) -> None:
    harm(sites.mirror, counting(sites, layout.PACKS)[:1], "torn")
    problems = mirror_vault(sites.vault, sites.mirror).problems
    assert ["vault mirror --repair" in problem for problem in problems] == [True]


@pytest.mark.parametrize("how", ["torn", "flipped"])
def test_damage_of_the_vault_does_not_spread(how: str, sites: Sites) -> None:
    keys = counting(sites, layout.PACKS)
    before = sites.mirror.objects(layout.PACKS)
    harm(sites.vault, keys, how)
    assert repair(sites).is_whole, "the mirror is right"
    assert sites.mirror.objects(layout.PACKS) == before


def test_a_pack_that_is_whole_at_neither_is_lost_and_left_alone(sites: Sites) -> None:
    key = max(counting(sites, layout.PACKS), key=lambda key: len(sites.vault.get(key)))
    harm(sites.vault, [key], "flipped")
    harm(sites.mirror, [key], "torn")
    there = sites.mirror.get(key)
    report = repair(sites)
    assert report.exit_code == 4
    assert [line for line in report.lost if key in line]
    assert sites.mirror.get(key) == there


def test_a_vault_with_an_alarm_repairs_no_mirror(sites: Sites) -> None:
    newest = sites.open().history.tip.sequence
    for key in (layout.entry_key(newest), layout.entry_copy_key(newest)):
        sites.vault.delete(key)
    before = sites.mirror.objects()
    with pytest.raises(HistoryDamaged):
        repair(sites)
    assert sites.mirror.objects() == before


def test_a_mirror_on_another_line_is_not_overwritten(sites: Sites) -> None:
    fork = sites.fork()
    sites.back_up(some_files(1))
    fork.back_up(some_files(2))
    mirror_vault(fork.vault, fork.mirror)
    sites.mirror = fork.mirror
    before = sites.mirror.objects()
    with pytest.raises(HistoryDamaged, match="different histories"):
        repair(sites)
    assert sites.mirror.objects() == before


@pytest.mark.parametrize("after_it", [False, True], ids=["before", "after"])
def test_a_repair_that_was_killed_goes_on(after_it: bool, sites: Sites) -> None:
    for prefix in (layout.LOG_COPIES, layout.INDEXES, layout.PACKS):
        harm(sites.mirror, counting(sites, prefix), "flipped")
    sites.back_up(some_files(3))
    dry = sites.fork()
    dry.trace = Trace()
    assert repair(dry).is_whole
    assert writes_of(dry.trace) > 3
    for nth in range(0, writes_of(dry.trace), 3):
        killed = sites.fork()
        killed.trace = Trace([KillAtWrite(nth, after_it)])
        with pytest.raises(Killed):
            repair(killed)
        killed.trace = None
        assert repair(killed).is_whole
        killed.check_live(store=killed.mirror)
