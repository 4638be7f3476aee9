"""Repair: from copies, from packs' own tables, from a mirror; checked before, and nothing to do the second time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from holdfast.engine.vault import layout
from holdfast.engine.vault.errors import HistoryDamaged, NotEntitled, NoVault
from holdfast.engine.vault.forget import Keep, forget
from holdfast.engine.vault.keysets import rotate_keys, unlock
from holdfast.engine.vault.mirror import mirror_vault
from holdfast.engine.vault.pack import PackClass
from holdfast.engine.vault.repair import RepairOptions, RepairReport, repair_vault
from holdfast.engine.vault.verify import Depth, verify_vault
from sync_harms import Cut, Killed, Trace
from vault_faults import RECIPIENT, KillAtWrite, Sites, some_files, writes_of


@cache
def _mirrored() -> Sites:
    sites = Sites().make()
    sites.back_up(some_files())
    sites.back_up(some_files(seed=5, count=3), source="other")
    sites.clock.advance(10)
    sites.back_up({**some_files(), "part-1/01": b"x" * 900, "part-2/05": b"y" * 2000})
    forget(sites.open("admin"), Keep(last=1))
    sites.collect()
    sites.back_up({**some_files(), "part-1/04": b"z" * 50})
    mirror_vault(sites.vault, sites.mirror)
    return sites


@pytest.fixture
def sites() -> Sites:
    return _mirrored().fork()


def repair(sites: Sites, *, mirror: bool, role: str = "admin", options: RepairOptions | None = None) -> RepairReport:
    return repair_vault(sites.open(role), [sites.mirror_store()] if mirror else [], options)


def check_whole(sites: Sites, report: RepairReport, *, mirror: bool) -> None:
    assert report.healed
    assert report.is_whole, (report.lost, report.verified)
    assert len(sites.check_live()) == len(_mirrored().live())
    sites.check_verifies()
    again = repair(sites, mirror=mirror)
    assert (again.healed, again.lost, again.entry) == ({}, [], None), "nothing is left to do"
    sites.back_up(some_files(8))
    sites.check_live()
    sites.clock.advance(10)
    sites.settle()


def needed_pack(sites: Sites) -> str:
    """The largest that a live backup may need: others were collected, and lie there until their grace is over."""
    collected = sites.open().history.collected
    packs = {key: data for key, data in sites.vault.objects(layout.PACKS).items() if layout.id_of(key) not in collected}
    return max(packs, key=lambda key: len(packs[key]))


def flipped(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def harm_all(sites: Sites, prefix: str, how: str, *, only: Callable[[str], bool] = lambda _key: True) -> None:
    rng = random.Random(f"{prefix}-{how}")
    for key, data in sites.vault.objects(prefix).items():
        if only(key):
            if how == "missing":
                sites.vault.delete(key)
            else:
                sites.vault.put(key, flipped(data, rng) if how == "flipped" else data[: len(data) // 3])


@pytest.mark.parametrize("how", ["missing", "flipped", "torn"])
@pytest.mark.parametrize("mirror", [False, True], ids=["alone", "mirror"])
@pytest.mark.parametrize("what", ["entries", "copies", "keys a", "keys b", "indexes"])
def test_what_has_a_second_place_is_healed_from_it(what: str, mirror: bool, how: str, sites: Sites) -> None:
    prefix = {"entries": layout.LOG, "copies": layout.LOG_COPIES, "indexes": layout.INDEXES}.get(what, layout.KEYS)
    harm_all(sites, prefix, how, only=lambda key: not what.startswith("keys") or f".{what[-1]}." in key)
    check_whole(sites, repair(sites, mirror=mirror), mirror=mirror)


@pytest.mark.parametrize("how", ["missing", "flipped", "torn"])
@pytest.mark.parametrize("what", [layout.PACKS, layout.KEYS, layout.LOG])
def test_what_is_gone_at_the_vault_is_put_back_from_the_mirror(what: str, how: str, sites: Sites) -> None:
    vault = sites.open("admin")
    harm_all(sites, what, how)
    if what == layout.LOG:
        last = vault.history.counting[1:]
        harm_all(sites, layout.LOG_COPIES, how, only=lambda key: layout.sequence_of(key) in last)
    report = repair_vault(vault, [sites.mirror])
    check_whole(sites, report, mirror=True)


def test_everything_at_once_but_the_beginning_of_the_log(sites: Sites) -> None:
    vault = sites.open("admin")
    first = {layout.entry_key(vault.history.keys_at.sequence)}
    for key in sites.vault.objects().keys() - first:
        sites.vault.delete(key)
    check_whole(sites, repair_vault(vault, [sites.mirror]), mirror=True)


@pytest.mark.parametrize("how", ["missing", "flipped"])
def test_a_vault_of_which_nothing_is_left_is_made_whole_from_its_mirror(how: str, sites: Sites) -> None:
    """It does not open any more: its mirror does, and says what lay there."""
    for key, data in sites.vault.objects().items():
        if how == "missing":
            sites.vault.delete(key)
        else:
            sites.vault.put(key, flipped(data, random.Random(key)))
    with pytest.raises((NoVault, HistoryDamaged)):
        sites.open("admin")
    vault = replace(sites.open("admin", store=sites.mirror), store=sites.vault)
    check_whole(sites, repair_vault(vault, [sites.mirror]), mirror=True)


def test_the_older_keys_of_a_log_are_healed(sites: Sites) -> None:
    """Every entry that set the keys counts, however old, wherever the newest anchor lies."""
    for _ in range(2):
        rotate_keys(sites.open("admin"), {"admin": [RECIPIENT]})
        forget(sites.open("admin"), Keep(last=1))
        sites.back_up(some_files(6, count=2))
    sites.clock.advance(3600)
    sites.settle()
    mirror_vault(sites.vault, sites.mirror)
    for mirror in (False, True):
        for prefix in (layout.LOG, layout.LOG_COPIES):
            harm_all(sites, prefix, "flipped")
            assert repair(sites, mirror=mirror).is_whole
    vault = sites.open("admin")
    for prefix in (layout.LOG, layout.LOG_COPIES):
        for key in sites.vault.objects(prefix):
            sites.vault.delete(key)
    assert repair_vault(vault, [sites.mirror]).is_whole
    sites.check_live()


def test_damage_to_packs_whose_index_was_lost_is_found_by_the_reader(sites: Sites) -> None:
    """Their digests were lost with it; what is found right when they are named again has one again."""
    harm_all(sites, layout.INDEXES, "missing")
    reader = unlock(sites.vault, "reader", sites.recipients)
    assert repair(sites, mirror=False).is_whole
    without = {info.digest for info in sites.open().load_index().index.packs if info.kind is PackClass.DATA}
    assert None in without, "an administrator cannot say that they are right"
    harm_all(sites, layout.PACKS, "flipped")
    report = repair(sites, mirror=True, options=RepairOptions(reader=reader))
    assert report.is_whole, report.lost
    sites.check_live()
    harm_all(sites, layout.INDEXES, "missing")
    assert repair(sites, mirror=False, options=RepairOptions(reader=reader)).is_whole
    assert None not in {info.digest for info in sites.open().load_index().index.packs}


def test_without_a_mirror_lost_packs_are_told_and_the_rest_is_healed(sites: Sites) -> None:
    harm_all(sites, layout.LOG_COPIES, "missing")
    sites.vault.delete(needed_pack(sites))
    report = repair(sites, mirror=False)
    assert report.healed
    assert not report.is_whole
    assert report.verified is not None
    assert report.verified.affected


def test_a_pack_damaged_at_the_mirror_is_not_put_back(sites: Sites) -> None:
    rng = random.Random(1)
    for key, data in sites.mirror.objects(layout.PACKS).items():
        sites.mirror.put(key, flipped(data, rng))
    lost = list(sites.vault.objects(layout.PACKS))[:2]
    for key in lost:
        sites.vault.delete(key)
    report = repair(sites, mirror=True)
    assert not report.is_whole
    assert not set(lost) & set(sites.vault.objects())
    assert len(report.lost) >= 1


@pytest.mark.parametrize("role", ["writer", "reader"])
def test_without_an_administrator_all_is_healed_that_needs_no_new_entry(role: str, sites: Sites) -> None:
    harm_all(sites, layout.INDEXES, "missing")
    harm_all(sites, layout.LOG_COPIES, "flipped")
    report = repair(sites, mirror=False, role=role)
    assert "administrator" in " ".join(report.lost)
    assert all(key.startswith(layout.LOG_COPIES) for key in report.healed)
    assert repair(sites, mirror=True, role=role).is_whole, "the mirror has the index itself"


def test_packs_that_come_back_after_their_index_was_lost_are_named_again(sites: Sites) -> None:
    """Index and packs are lost together, and repaired without; later the packs are found elsewhere."""
    everything = sites.vault.objects(layout.PACKS)
    harm_all(sites, layout.INDEXES, "missing")
    for key in everything:
        sites.vault.delete(key)
    assert not repair(sites, mirror=False).is_whole
    report = repair(sites, mirror=True)
    assert report.is_whole, report.lost
    sites.check_live()


def test_unnamed_packs_of_the_mirror_that_hold_what_is_missing_are_brought(sites: Sites) -> None:
    """Both lost the index; the vault lost packs as well. What it names is found by what the packs hold."""
    for store in (sites.vault, sites.mirror):
        for key in store.objects(layout.INDEXES):
            store.delete(key)
    for key in list(sites.vault.objects(layout.PACKS)):
        sites.vault.delete(key)
    report = repair(sites, mirror=True)
    assert report.is_whole, report.lost
    sites.check_live()
    sites.clock.advance(10)
    sites.settle()


# -- rollbacks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_entries_that_were_removed_are_put_back(count: int, sites: Sites) -> None:
    newest = sites.open().history.tip.sequence
    for number in range(newest - count + 1, newest + 1):
        sites.vault.delete(layout.entry_key(number))
        sites.vault.delete(layout.entry_copy_key(number))
    assert sites.open().alarm is not None
    check_whole(sites, repair(sites, mirror=True), mirror=True)


def test_a_whole_vault_that_was_rolled_back_is_put_right() -> None:
    sites = Sites().make()
    sites.back_up(some_files(0, count=4))
    older = sites.vault.objects()
    for seed in range(1, 4):
        sites.back_up(some_files(seed, count=4))
        sites.clock.advance(3600)
    forget(sites.open("admin"), Keep(last=2))
    sites.collect()
    sites.collect()
    mirror_vault(sites.vault, sites.mirror)
    sites.vault.set_to(older)
    assert sites.open().alarm is not None
    report = repair(sites, mirror=True)
    assert report.is_whole, report.lost
    sites.check_live()
    sites.clock.advance(10)
    sites.settle()


def test_a_mirror_that_lags_behind_the_witnesses_does_not_silence_them(sites: Sites) -> None:
    sites.back_up(some_files(9))
    newest = sites.open().history.tip.sequence
    for key in (layout.entry_key(newest), layout.entry_copy_key(newest)):
        sites.vault.delete(key)
    report = repair(sites, mirror=True)
    assert not report.is_whole
    assert sites.open().alarm is not None


@pytest.mark.parametrize("accept_loss", [False, True])
@pytest.mark.parametrize("newest_first", [False, True])
def test_what_only_one_of_several_mirrors_has_is_not_given_up(
    newest_first: bool, accept_loss: bool, sites: Sites
) -> None:
    lagging = sites.fork().mirror
    kept = sites.back_up(some_files(9)).backup
    mirror_vault(sites.vault, sites.mirror)
    for key in (layout.entry_key(kept.sequence), layout.entry_copy_key(kept.sequence)):
        sites.vault.delete(key)
    mirrors = [sites.mirror, lagging] if newest_first else [lagging, sites.mirror]
    report = repair_vault(sites.open("admin"), mirrors, RepairOptions(accept_loss=accept_loss))
    assert report.is_whole, report.lost
    assert report.entry is None, "nothing was given up"
    sites.check_live(at_least=[kept.backup_id])


@pytest.mark.parametrize("prefix", [layout.INDEXES, layout.PACKS, layout.KEYS])
def test_what_is_lost_is_put_together_from_several_mirrors(prefix: str, sites: Sites) -> None:
    """Each of them has the half of it."""
    other = sites.fork().mirror
    vault = sites.open("admin")
    keys = sorted(sites.vault.objects(prefix))
    assert len(keys) > 1
    for number, key in enumerate(keys):
        (sites.mirror if number % 2 else other).delete(key)
    harm_all(sites, prefix, "missing")
    check_whole(sites, repair_vault(vault, [other, sites.mirror]), mirror=False)


def test_a_pack_no_mirror_has_is_lost(sites: Sites) -> None:
    other = sites.fork().mirror
    lost = needed_pack(sites)
    for store in (sites.vault, sites.mirror, other):
        store.delete(lost)
    report = repair_vault(sites.open("admin"), [sites.mirror, other])
    assert not report.is_whole
    assert [line for line in report.lost if lost in line]


def test_a_mirror_on_another_line_keeps_the_others_from_nothing_but_a_loss(sites: Sites) -> None:
    """No witness can be asked."""
    fork = sites.fork()
    kept = sites.back_up(some_files(1)).backup
    mirror_vault(sites.vault, sites.mirror)
    fork.back_up(some_files(2))
    mirror_vault(fork.vault, fork.mirror)
    gone = needed_pack(sites)
    sites.vault.delete(gone)
    sites.trace = Trace([Cut(name, 0) for name in sites.witnesses])
    mirrors = [fork.mirror, sites.mirror]
    with pytest.raises(HistoryDamaged):
        repair_vault(sites.open("admin"), [fork.mirror])
    report = repair_vault(sites.open("admin"), mirrors)
    assert gone in report.healed
    assert [line for line in report.lost if "different histories" in line]
    sites.check_live(at_least=[kept.backup_id])


@pytest.mark.parametrize("mirror", [False, True], ids=["alone", "mirror"])
def test_a_loss_is_accepted_by_an_administrator_alone(mirror: bool, sites: Sites) -> None:
    lost = sites.back_up(some_files(9)).backup
    for key in (layout.entry_key(lost.sequence), layout.entry_copy_key(lost.sequence)):
        sites.vault.delete(key)
    options = RepairOptions(accept_loss=True)
    with pytest.raises(NotEntitled):
        repair(sites, mirror=mirror, role="writer", options=options)
    report = repair(sites, mirror=mirror, options=options)
    assert report.is_whole, report.lost
    assert report.entry is not None
    assert lost.backup_id not in {backup.backup_id for backup in sites.check_live()}
    sites.back_up(some_files(9))
    sites.check_live()
    sites.clock.advance(10)
    sites.settle()


def test_garbage_at_the_end_of_the_log_stops_nobody(sites: Sites) -> None:
    """Whoever can write to the store, and has no key."""
    newest = sites.open().history.tip.sequence
    sites.vault.put(layout.entry_key(newest + 1), b"garbage")
    sites.back_up(some_files(1))
    assert sites.open().history.tip.sequence == newest + 2
    assert any("is no entry of this log" in problem for problem in verify_vault(sites.open()).problems)
    sites.check_live()


def test_two_histories_are_left_to_people(sites: Sites) -> None:
    """No witness can be asked: which of the two is true is not known."""
    fork = sites.fork()
    sites.back_up(some_files(1))
    fork.back_up(some_files(2))
    mirror_vault(fork.vault, fork.mirror)
    sites.mirror = fork.mirror
    sites.trace = Trace([Cut(name, 0) for name in sites.witnesses])
    before = sites.vault.objects()
    with pytest.raises(HistoryDamaged):
        repair(sites, mirror=True)
    assert sites.vault.objects() == before


def test_of_two_histories_the_witnessed_one_is_put_back(sites: Sites) -> None:
    wrong = sites.fork()
    true = sites.back_up(some_files(2)).backup
    mirror_vault(sites.vault, sites.mirror)
    wrong.trace = Trace([Cut(name, 0) for name in wrong.witnesses])
    wrong.back_up(some_files(4))
    wrong.trace = None
    wrong.witnesses, wrong.mirror, wrong.states = sites.witnesses, sites.mirror, sites.states
    assert wrong.open().alarm is not None
    report = repair(wrong, mirror=True)
    assert report.is_whole, report.lost
    wrong.check_live(at_least=[true.backup_id])


# -- broken off --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_it", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("mirror", [False, True], ids=["alone", "mirror"])
def test_a_repair_that_was_killed_goes_on(mirror: bool, after_it: bool, sites: Sites) -> None:
    harm_all(sites, layout.LOG_COPIES, "missing")
    harm_all(sites, layout.INDEXES, "flipped")
    if mirror:
        harm_all(sites, layout.PACKS, "torn")
    dry = sites.fork()
    dry.trace = Trace()
    structure = RepairOptions(depth=Depth.STRUCTURE)
    assert repair(dry, mirror=mirror, options=structure).is_whole
    for nth in range(0, writes_of(dry.trace), 3):
        killed = sites.fork()
        killed.trace = Trace([KillAtWrite(nth, after_it)])
        with pytest.raises(Killed):
            repair(killed, mirror=mirror, options=structure)
        killed.trace = None
        assert repair(killed, mirror=mirror, options=structure).is_whole
        killed.check_live()
        killed.clock.advance(10)
        killed.settle()
