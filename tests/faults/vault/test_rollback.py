"""Somebody removes the newest backups, or puts an older state back: an alarm, no writing, and reading goes on."""

from __future__ import annotations

import dataclasses

import pytest

from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.objectstore.faults import Fault, FaultyStore, Kind, Script
from holdfast.engine.vault import append as appending
from holdfast.engine.vault import layout
from holdfast.engine.vault.append import append
from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.backups import find_backup, live_backups
from holdfast.engine.vault.collect import collect
from holdfast.engine.vault.errors import CollectedMeanwhile, HistoryDamaged, NotEntitled, Outdated, RolledBack
from holdfast.engine.vault.forget import Keep, forget, hold
from holdfast.engine.vault.keysets import rotate_keys, unlock
from holdfast.engine.vault.mirror import mirror_vault
from holdfast.engine.vault.restore import restore_backup
from holdfast.engine.vault.sources import StreamSource
from holdfast.engine.vault.vault import Vault, open_vault
from holdfast.engine.vault.verify import verify_vault
from sync_harms import Cut, Trace
from vault_faults import AT_ONCE, RECIPIENT, DictTarget, Sites, some_files


@pytest.fixture
def sites() -> Sites:
    sites = Sites().make()
    for seed in range(4):
        sites.back_up(some_files(seed, count=3))
        sites.clock.advance(3600)
    return sites


def remove_entry(sites: Sites, number: int) -> None:
    sites.vault.delete(layout.entry_key(number))
    sites.vault.delete(layout.entry_copy_key(number))


def check_alarm_and_reading(sites: Sites, backups: int) -> Vault:
    vault = sites.open()
    assert isinstance(vault.alarm, HistoryDamaged)
    assert not verify_vault(vault).is_good
    for refused in (
        lambda: sites.back_up(some_files()),
        lambda: forget(sites.open("admin"), Keep(last=1)),
        lambda: collect(sites.open("admin"), AT_ONCE),
        lambda: hold(sites.open("admin"), live_backups(vault)[:1], held=True),
        lambda: rotate_keys(sites.open("admin"), {"admin": [RECIPIENT]}),
    ):
        before = sites.vault.objects()
        with pytest.raises(HistoryDamaged):
            refused()
        assert sites.vault.objects() == before, "nothing is written"
    left = live_backups(vault)
    assert len(left) == backups
    for backup in left:
        target = DictTarget()
        restore_backup(vault, backup, target)
        assert target.files == sites.expected(backup)
    return vault


@pytest.mark.parametrize("count", [1, 2])
def test_the_newest_entries_are_removed(count: int, sites: Sites) -> None:
    newest = sites.open().history.tip.sequence
    for number in range(newest - count + 1, newest + 1):
        remove_entry(sites, number)
    assert isinstance(check_alarm_and_reading(sites, 4 - count).alarm, RolledBack)


def test_an_entry_is_removed_whose_copy_is_there(sites: Sites) -> None:
    """Healed by the copy; and the next backup puts it back where it was."""
    newest = sites.open().history.tip.sequence
    sites.vault.delete(layout.entry_key(newest))
    sites.check_live()
    assert len(sites.live()) == 4
    sites.back_up(some_files(9))
    assert layout.entry_key(newest) in sites.vault.objects()
    assert len(sites.check_live()) == 5


def test_an_entry_in_the_middle_is_removed(sites: Sites) -> None:
    remove_entry(sites, 3)
    check_alarm_and_reading(sites, 3)


@pytest.mark.parametrize("unreachable", [[], ["witness-a"], ["witness-b"]])
def test_an_older_state_is_put_back_whole(unreachable: list[str]) -> None:
    sites = Sites().make()
    sites.back_up(some_files(0))
    sites.back_up(some_files(1))
    older = sites.vault.objects()
    sites.clock.advance(3600)
    sites.back_up(some_files(2))
    forget(sites.open("admin"), Keep(last=2))
    sites.collect()
    sites.back_up(some_files(3))
    sites.vault.set_to(older)
    sites.trace = Trace([Cut(name, 0) for name in unreachable])
    vault = check_alarm_and_reading(sites, 2)
    assert {witness.site for witness in vault.witnessed if witness.unknown is not None} == set(unreachable)


def test_no_witness_that_can_be_asked_is_said_and_is_no_alarm(sites: Sites) -> None:
    sites.trace = Trace([Cut(name, 0) for name in sites.witnesses])
    vault = sites.open()
    assert vault.alarm is None
    assert all(witness.unknown is not None for witness in vault.witnessed)
    report = verify_vault(vault)
    assert (len(report.unknown), report.problems, report.is_good, report.exit_code) == (2, [], False, 1)
    sites.back_up(some_files(8))
    sites.trace = None
    sites.check_live()


def test_a_vault_that_was_opened_before_the_rollback_writes_nothing(sites: Sites) -> None:
    """Its own memory is a witness, too."""
    writer, admin = sites.open("writer"), sites.open("admin")
    newest = writer.history.tip.sequence
    remove_entry(sites, newest)
    for name in sites.witnesses.values():
        name.set_to({})
    before = sites.vault.objects(layout.LOG)
    with pytest.raises(RolledBack):
        sites.back_up(some_files(9), vault=writer)
    with pytest.raises(RolledBack):
        forget(admin, Keep(last=1))
    with pytest.raises(RolledBack):
        collect(admin, AT_ONCE)
    assert sites.vault.objects(layout.LOG) == before


def test_another_history_of_the_same_length_is_an_alarm() -> None:
    sites = Sites().make()
    fork = sites.fork()
    sites.back_up(some_files(1))
    fork.back_up(some_files(2))
    fork.witnesses = sites.witnesses
    assert isinstance(fork.open().alarm, RolledBack)


def test_an_entry_written_while_the_vault_is_opened_is_no_alarm(sites: Sites) -> None:
    """Between reading the log and asking the witnesses somebody else commits."""

    class Late(FaultyStore):
        done = False

        def list(self, prefix: str = "", **kwargs: object):
            if not Late.done:
                Late.done = True
                sites.back_up(some_files(9))
            return super().list(prefix, **kwargs)

    secrets = unlock(sites.vault, "reader", sites.recipients)
    late = {name: Late(store, Script([])) for name, store in sites.witnesses.items()}
    vault = open_vault("vault", sites.vault, secrets, witnesses=late, clock=sites.clock)
    assert Late.done
    assert vault.alarm is None
    assert len(live_backups(vault)) == 5


def test_a_witness_that_saw_another_entry_is_told_of_at_once(sites: Sites) -> None:
    older = sites.vault.objects()
    sites.back_up(some_files(5))
    sites.vault.set_to(older)
    sites.trace = Trace([Cut(name, 0) for name in sites.witnesses])
    blind = sites.open("writer")
    sites.trace = None
    blind = dataclasses.replace(blind, witnesses=sites.seen_witnesses())
    report = sites.back_up(some_files(6), vault=blind)
    assert all("another entry" in str(witness.unknown) for witness in report.witnessed)
    assert isinstance(sites.open().alarm, RolledBack)


# -- actors that sleep -------------------------------------------------------------------------------------------------


def shortened(sites: Sites) -> None:
    """Forgotten, collected, and the log cut to what counts."""
    forget(sites.open("admin"), Keep(last=1))
    for _ in range(3):
        sites.clock.advance(10)
        sites.collect()


def test_a_sleeping_writer_catches_up_and_loses_nothing(sites: Sites) -> None:
    sleeper = sites.open("writer")
    sites.back_up(some_files(0, count=5))
    shortened(sites)
    sites.back_up(some_files(1, count=3), vault=sleeper, source="mine")
    sites.check_live()
    sites.settle()


def test_a_sleeping_reader_finds_what_was_written_anew(sites: Sites) -> None:
    """Packs it knew are gone; the chunks lie in others."""
    sites.back_up({**some_files(9, count=8), "stays": b"s" * 500}, source="mixed")
    sites.back_up({"stays": b"s" * 500}, source="mixed")
    sleeper = sites.open()
    wanted = find_backup(sleeper, source="mixed")
    shortened(sites)
    target = DictTarget()
    restore_backup(sleeper, wanted, target)
    assert target.files == {"stays": b"s" * 500}
    assert verify_vault(sleeper).is_good


def test_an_entry_that_fills_a_hole_counts_for_nothing(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that was stopped between its last look and its write, while the log was shortened."""
    sleeper = sites.open("writer")
    entry = sleeper.history.tip
    for seed in (9, 10):
        sites.back_up(some_files(seed, count=2))
    shortened(sites)
    was = sites.open().history
    assert layout.entry_key(entry.sequence + 1) not in sites.vault.objects()
    monkeypatch.setattr(
        appending, "_catch_up", lambda _store, _secrets, tip, _seen, signers: (tip, signers, tip.sequence + 1)
    )
    with pytest.raises(Outdated):
        append(
            sites.vault,
            sleeper.secrets,
            "backup",
            clock=sites.clock,
            tip=entry,
            signers=sleeper.history.keys.signers,
            describe=lambda _tip: ({"backup": "0" * 32, "tier": "daily", "indexes": []}, {}),
        )
    monkeypatch.undo()
    assert layout.entry_key(entry.sequence + 1) in sites.vault.objects()
    vault = sites.open()
    assert vault.alarm is None
    assert (vault.history.tip, vault.history.backups) == (was.tip, was.backups)
    another = dataclasses.replace(sleeper)
    sites.back_up(some_files(7), vault=another)
    sites.check_live()
    sites.settle()


def test_a_writer_whose_key_was_rotated_out_writes_nothing(sites: Sites) -> None:
    """Its entry would be one that nobody believes, and would stop everybody."""
    sleeper = sites.open("writer")
    writer = unlock(sites.vault, "writer", sites.recipients)
    rotate_keys(sites.open("admin"), {"writer": [RECIPIENT]}, writer=writer, new_signer=True)
    with pytest.raises(NotEntitled):
        sites.back_up(some_files(9), vault=sleeper)
    sites.check_live()
    sites.back_up(some_files(9))
    sites.check_live()


def test_the_copy_of_an_entry_keeps_its_number_from_being_taken(sites: Sites) -> None:
    """A sleeping writer finds the number free, because the first copy was lost."""
    sleeper = sites.open("writer")
    kept = sites.back_up(some_files(9)).backup
    sites.vault.delete(layout.entry_key(kept.sequence))
    mine = sites.back_up(some_files(8), vault=sleeper).backup
    assert mine.sequence == kept.sequence + 1
    sites.check_live(at_least=[kept.backup_id, mine.backup_id])


def test_a_collection_completes_the_copies_a_dead_writer_left_out(sites: Sites) -> None:
    """Nobody wrote an entry since, who would have."""
    newest = sites.open().history.tip.sequence
    sites.vault.delete(layout.entry_copy_key(newest))
    sites.collect()
    assert layout.entry_copy_key(newest) in sites.vault.objects()


def test_a_damaged_tip_does_not_stop_a_sleeping_writer(sites: Sites) -> None:
    sleeper = sites.open("writer")
    kept = sites.back_up(some_files(9)).backup
    sites.vault.put(layout.entry_key(kept.sequence), b"garbage")
    mine = sites.back_up(some_files(8), vault=sleeper).backup
    sites.check_live(at_least=[kept.backup_id, mine.backup_id])


def test_packs_of_a_sleeping_backup_that_were_collected_are_stored_again() -> None:
    sites = Sites().make()
    sites.back_up({"first": b"1" * 300})
    seen: list[int] = []

    class Slow(FaultyStore):
        """Before it writes its entry, a day and two collections pass."""

        def put(self, key, data, **kwargs):
            if key.startswith(layout.LOG) and not seen:
                seen.append(1)
                for _ in range(2):
                    sites.clock.advance(30 * 3600)
                    sites.collect(dataclasses.replace(AT_ONCE, orphan_age=AT_ONCE.grace))
            return super().put(key, data, **kwargs)

    vault = dataclasses.replace(sites.open("writer"), store=Slow(sites.vault, Script([])))
    sites.back_up(some_files(3), vault=vault)
    assert seen
    sites.check_live()
    sites.settle()


def test_a_stream_is_not_read_twice(sites: Sites) -> None:
    """Its producer runs once: what was collected meanwhile ends the backup, and it may be run again."""
    sites.back_up({"dump": b"d" * 900}, source="dump")
    sites.back_up({}, source="dump")
    sleeper = sites.open("writer")
    read: list[int] = []

    def pieces():
        read.append(1)
        yield b"d" * 900

    forget(sites.open("admin"), Keep(last=1), source="dump")
    forget(sites.open("admin"), Keep(last=1))
    sites.collect()
    source = StreamSource("dump", "dump", pieces, lambda: None, sites.clock.now())
    with pytest.raises((CollectedMeanwhile, Outdated)):
        back_up(sleeper, source)
    assert read == [1]
    assert back_up(sites.open("writer"), source).backup.size_bytes == 900


def test_mirroring_a_vault_that_was_rolled_back_is_refused(sites: Sites) -> None:
    older = sites.vault.objects()
    sites.back_up(some_files(9))
    mirror_vault(sites.vault, sites.mirror)
    sites.vault.set_to(older)
    before = sites.mirror.objects()
    with pytest.raises(HistoryDamaged):
        mirror_vault(sites.vault, sites.mirror)
    assert sites.mirror.objects() == before
    assert len(sites.check_live(store=sites.mirror)) == 5


def test_a_store_that_cannot_be_reached_is_no_rollback(sites: Sites) -> None:
    store = FaultyStore(sites.vault, Script([Fault(Kind.FAIL_BEFORE, "list", layout.LOG)] * 2))
    with pytest.raises(StoreUnavailable):
        sites.open(store=store)
