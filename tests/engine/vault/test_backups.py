"""Which backup is meant: by its time, whatever a source's clock said; by its name, whoever else took it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.interface import CREATE
from holdfast.engine.vault import layout
from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.backups import Backup, all_backups, find_backup, live_backups
from holdfast.engine.vault.collect import CollectOptions, collect
from holdfast.engine.vault.errors import Damaged, UnknownBackup
from holdfast.engine.vault.forget import Keep, forget, hold
from holdfast.engine.vault.mirror import mirror_vault
from holdfast.engine.vault.repair import repair_vault
from holdfast.engine.vault.sources import TreeSource
from holdfast.engine.vault.vault import Vault
from holdfast.errors import Refused
from vault_faults import ClockedStore
from vault_world import SMALL, VaultWorld, read_tree, some_files, write_tree

DAY = timedelta(days=1)
MONDAY = datetime(2026, 3, 2, 1, 30, 0, 250_000, tzinfo=UTC)


# -- clocks that ran ahead -----------------------------------------------------------------------------------------


class Week:
    """A vault backed up every day, by the store's clock; the source's own clock may say anything."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock(MONDAY)
        self.store = ClockedStore("vault", self.clock)
        self.world = VaultWorld(self.store).make()
        self.folder = folder
        folder.mkdir()

    def back_up(self, *, ahead: timedelta = timedelta(0)) -> Backup:
        self.clock.advance(DAY.total_seconds())
        (self.folder / "a").write_text(f"of {self.clock.now()}")
        taken_at = self.clock.now() - timedelta(minutes=1) + ahead
        return back_up(self.world.open(), TreeSource("tree", self.folder, taken_at), SMALL).backup


@pytest.fixture
def week(tmp_path: Path) -> Week:
    return Week(tmp_path / "source")


def numbers(backups: Any) -> list[int]:
    return [one.sequence for one in backups]


def test_a_backup_made_while_a_clock_ran_ahead_is_the_newest_until_the_next_one(week: Week, tmp_path: Path) -> None:
    ahead = week.back_up(ahead=365 * DAY)
    came = week.clock.now()
    found = find_backup(week.world.open())
    assert (found.sequence, found.taken_at, found.committed_at) == (ahead.sequence, came, came)
    assert found.claimed_at == ahead.taken_at == came - timedelta(minutes=1) + 365 * DAY
    week.back_up()
    right = find_backup(week.world.open(), source="tree")
    assert (right.sequence, right.claimed_at) == (ahead.sequence + 1, None)
    assert find_backup(week.world.open(), at=right.taken_at - timedelta(seconds=1)).sequence == ahead.sequence
    week.world.restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == read_tree(week.folder)


def test_of_two_that_ran_ahead_the_later_is_the_newer(week: Week) -> None:
    first, second = week.back_up(ahead=30 * DAY), week.back_up(ahead=3 * DAY)
    assert find_backup(week.world.open()).sequence == second.sequence
    assert week.back_up(ahead=DAY / 24).sequence == second.sequence + 1 == find_backup(week.world.open()).sequence
    _, plan = forget(week.world.open("admin"), Keep(last=1))
    assert numbers(plan.forgotten) == [first.sequence, second.sequence]


def test_a_store_that_tells_whole_seconds_takes_none_away(week: Week) -> None:
    """Two within one second: the one that was taken later is the newer."""
    week.clock.advance(0.75)
    taken = week.clock.now()
    assert taken.microsecond == 0
    made = []
    for at in (600, 300):
        source = TreeSource("tree", week.folder, taken + timedelta(milliseconds=at))
        made.append(back_up(week.world.open(), source, SMALL).backup)
    assert [one.taken_at for one in live_backups(week.world.open())] == [one.taken_at for one in made]
    assert find_backup(week.world.open()).sequence == made[0].sequence


def test_retention_counts_a_backup_for_the_day_it_came(week: Week) -> None:
    """And says beforehand what it will do."""
    ahead = week.back_up(ahead=400 * DAY)
    for _ in range(3):
        week.back_up()
    _, plan = forget(week.world.open("admin"), Keep(daily=3))
    assert numbers(plan.forgotten) == [ahead.sequence]


def test_an_entry_that_was_put_back_is_as_old_as_the_one_after_it(week: Week) -> None:
    """Else the oldest backup would be the newest, where its clock ran ahead."""
    ahead = week.back_up(ahead=365 * DAY)
    mirror = memory_store("mirror")
    week.back_up()
    later = week.clock.now()
    week.back_up()
    mirror_vault(week.store, mirror)
    for key in (layout.entry_key(ahead.sequence), layout.entry_copy_key(ahead.sequence)):
        week.store.delete(key)
    week.clock.advance(7 * DAY.total_seconds())
    assert repair_vault(week.world.open("admin"), [mirror]).lost == []
    (oldest, *_, last) = live_backups(week.world.open())
    assert (oldest.sequence, oldest.taken_at) == (ahead.sequence, later)
    assert find_backup(week.world.open()).sequence == last.sequence
    week.store.delete(layout.entry_key(last.sequence))
    assert live_backups(week.world.open())[-1].committed_at == last.committed_at, "its copy tells the same"


def test_rubbish_beside_the_log_makes_nothing_older(week: Week) -> None:
    week.store.put(layout.entry_key(900), b"rubbish", mode=CREATE)
    made = week.back_up()
    assert live_backups(week.world.open())[0].taken_at == made.taken_at


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> VaultWorld:
    world = VaultWorld().make()
    write_tree(tmp_path / "source", some_files(count=3))
    world.back_up(tmp_path / "source")
    return world


def lie(world: VaultWorld, backup_id: str, **body: Any) -> int:
    """A false backup; returns the number of its entry."""
    vault = world.open()
    said = vault.history.backups[2].open_body(vault.secrets)
    return world.commit({"backup": backup_id, "tier": "daily", "indexes": []}, {**said, **body}).sequence


def test_a_backup_is_found_by_the_number_of_its_entry(world: VaultWorld, tmp_path: Path) -> None:
    second = world.back_up(tmp_path / "source").backup
    assert find_backup(world.open(), "entry:2").sequence == 2
    assert find_backup(world.open(), f"entry:{second.sequence}", source="tree").backup_id == second.backup_id
    for wanted in ("entry:1", "entry:99", "entry:", "entry:x", "2", ""):
        with pytest.raises(UnknownBackup):
            find_backup(world.open(), wanted)
    with pytest.raises(UnknownBackup):
        find_backup(world.open(), "entry:2", source="other")


def test_an_id_that_two_have_forgets_neither(world: VaultWorld, tmp_path: Path) -> None:
    world.back_up(tmp_path / "source")
    good = find_backup(world.open(), "entry:2")
    false = lie(world, good.backup_id, source="evil", segments=[], objects=0, size_bytes=0)
    found = find_backup(world.open(), good.backup_id)
    assert (found.sequence, found.namesakes, found.handle) == (2, (false,), "entry:2")
    with pytest.raises(UnknownBackup, match=rf"entry:2 \(tree\), entry:{false} \(evil\)"):
        forget(world.open("admin"), backups=[good.backup_id])
    vault, plan = forget(world.open("admin"), backups=[f"entry:{false}"])
    assert numbers(plan.forgotten) == [false]
    (left, _) = live_backups(vault)
    assert (left.sequence, left.namesakes, left.handle) == (2, (), good.backup_id)


def test_many_answers_are_not_all_told(world: VaultWorld) -> None:
    for number in range(14):
        lie(world, f"abcd{number:028x}")
    with pytest.raises(UnknownBackup, match="and 4 more"):
        find_backup(world.open(), "abcd")


def test_the_last_backup_of_a_source_goes_only_where_it_is_meant(world: VaultWorld, tmp_path: Path) -> None:
    lie(world, os.urandom(16).hex(), segments="nonsense")
    with pytest.raises(Refused, match="nothing would be left of a source"):
        forget(world.open("admin"), backups=["entry:2"], spare_last=True)
    assert numbers(live_backups(world.open())) == [2]
    newer = world.back_up(tmp_path / "source").backup
    forget(world.open("admin"), backups=["entry:2"], spare_last=True)
    vault, _ = forget(world.open("admin"), backups=[newer.handle])
    assert live_backups(vault) == []


def test_two_that_forget_at_once_leave_one(world: VaultWorld, tmp_path: Path) -> None:
    """Each looked before the other had written."""
    second = world.back_up(tmp_path / "source").backup
    one, other = world.open("admin"), world.open("admin")
    forget(one, backups=["entry:2"], spare_last=True)
    with pytest.raises(Refused, match="nothing would be left"):
        forget(other, backups=[second.handle], spare_last=True)
    assert numbers(live_backups(world.open())) == [second.sequence]


# -- what cannot be read -------------------------------------------------------------------------------------------


def test_a_backup_that_cannot_be_read_stops_nothing_and_is_told_of(world: VaultWorld, tmp_path: Path) -> None:
    bad = lie(world, os.urandom(16).hex(), segments="nonsense")
    newer = world.back_up(tmp_path / "source").backup
    told = {one.sequence: one.unreadable for one in all_backups(world.open()) if one.unreadable is not None}
    assert list(told) == [bad]
    assert "says what none may say" in told[bad]
    vault, plan = forget(world.open("admin"), Keep(last=1))
    assert numbers(plan.forgotten) == [2]
    assert [(one.sequence, why) for one, why in plan.kept] == [(bad, "cannot be read"), (newer.sequence, "newest")]
    vault, report = collect(vault, CollectOptions(grace=timedelta(0), orphan_age=timedelta(0)))
    assert list(report.unreadable) == [bad]
    assert report.live_backups == 1
    repaired = repair_vault(vault)
    assert repaired.verified is not None
    assert [line for line in repaired.verified.problems if "entry 3 cannot be read" in line]
    with pytest.raises(Damaged, match="the backup cannot be read"):
        find_backup(vault, f"entry:{bad}")
    world.restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == some_files(count=3)


def test_what_cannot_be_read_is_held_and_forgotten_by_its_entry(world: VaultWorld) -> None:
    bad = lie(world, os.urandom(16).hex(), objects=-1)

    def of_it(vault: Vault) -> list[Backup]:
        return [one for one in all_backups(vault) if one.sequence == bad]

    hold(world.open("admin"), of_it(world.open()), held=True)
    assert of_it(world.open())[0].held
    with pytest.raises(Refused, match="legal hold"):
        forget(world.open("admin"), backups=[f"entry:{bad}"])
    _, plan = forget(world.open("admin"), Keep(last=1))
    assert (bad, "legal hold") in [(one.sequence, why) for one, why in plan.kept]
    hold(world.open("admin"), of_it(world.open()), held=False)
    vault, plan = forget(world.open("admin"), backups=[f"entry:{bad}"], spare_last=True)
    assert numbers(plan.forgotten) == [bad]
    assert numbers(all_backups(vault)) == [2]


def test_nothing_is_collected_while_no_backup_can_be_read(world: VaultWorld) -> None:
    """What is needed would be nothing."""
    lie(world, os.urandom(16).hex(), kind=7)
    forget(world.open("admin"), backups=["entry:2"])
    with pytest.raises(Damaged, match="no live backup can be read"):
        collect(world.open("admin"), CollectOptions(grace=timedelta(0)))
