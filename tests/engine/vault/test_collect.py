"""What a collection says beforehand, and what it leaves behind."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from holdfast.clock import FakeClock, SystemClock
from holdfast.engine.objectstore.interface import CREATE
from holdfast.engine.vault import layout
from holdfast.engine.vault.collect import CollectOptions, CollectReport, collect
from holdfast.engine.vault.forget import Keep, forget
from holdfast.engine.vault.verifications import note_verification, verifications, verified_by
from holdfast.engine.vault.verify import Depth, VerifyOptions, verify_vault
from vault_faults import ClockedStore
from vault_world import VaultWorld, some_files, write_tree

AT_ONCE = CollectOptions(grace=timedelta(0), orphan_age=timedelta(days=1))


@pytest.fixture
def world(tmp_path: Path) -> VaultWorld:
    """Three backups, each of other content."""
    world = VaultWorld(clock=SystemClock()).make()
    for seed in range(3):
        write_tree(tmp_path / f"source-{seed}", some_files(seed, count=4))
        world.back_up(tmp_path / f"source-{seed}")
    return world


def counts(report: CollectReport) -> dict[str, object]:
    return {name: value for name, value in vars(report).items() if name not in ("entry", "moved_bytes")}


def test_a_dry_run_says_what_a_collection_then_does(world: VaultWorld) -> None:
    """In both phases: what it newly finds to be nobody's, and what it removes because its grace is over."""
    forget(world.open("admin"), Keep(last=2))
    collect(world.open("admin"), AT_ONCE)
    forget(world.open("admin"), Keep(last=1))
    there = {info.key: info.modified_at for info in world.store.list()}
    _, would = collect(world.open("writer"), replace(AT_ONCE, dry_run=True))
    assert {info.key: info.modified_at for info in world.store.list()} == there, "it changed something"
    assert would.dead_packs > 0
    assert would.dead_bytes > 0
    assert would.deleted_packs > 0
    assert would.deleted_entries > 0
    waiting = collect(world.open("admin"), CollectOptions(grace=timedelta(days=1), dry_run=True))[1]
    assert (waiting.deleted_packs, waiting.waiting_packs) == (0, would.deleted_packs)
    _, did = collect(world.open("admin"), AT_ONCE)
    assert counts(would) == counts(did)
    left = {info.key for info in world.store.list()}
    gone = sum(1 for key in there if key not in left)
    assert gone == did.deleted_packs + did.deleted_entries
    _, would = collect(world.open("admin"), replace(AT_ONCE, dry_run=True))
    assert would.deleted_packs == did.dead_packs
    assert would.deleted_bytes == did.dead_bytes


def test_rubbish_laid_ahead_in_the_log_shortens_no_grace(tmp_path: Path) -> None:
    """It was there before the entries it would be after; so was what lies where a copy belongs, before its entry."""
    clock = FakeClock()
    store = ClockedStore("vault", clock)
    world = VaultWorld(store).make()
    for key in (layout.entry_copy_key(5), layout.entry_key(900), layout.entry_copy_key(901)):
        store.put(key, b"rubbish", mode=CREATE)
    clock.advance(timedelta(days=10).total_seconds())
    for seed in range(2):
        write_tree(tmp_path / f"source-{seed}", some_files(seed, count=4))
        world.back_up(tmp_path / f"source-{seed}")
    forget(world.open("admin"), Keep(last=1))
    _, said = collect(world.open("admin"))
    assert (said.entry, said.dead_packs > 0) == (5, True)
    clock.advance(timedelta(hours=23).total_seconds())
    assert collect(world.open("admin"))[1].deleted_packs == 0
    clock.advance(timedelta(hours=2).total_seconds())
    assert collect(world.open("admin"))[1].deleted_packs == said.dead_packs


# -- notes of verifications ----------------------------------------------------------------------------------------


class Noted:
    """A vault by a store's clock, and verifications of it."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.store = ClockedStore("vault", self.clock)
        self.world = VaultWorld(self.store, clock=self.clock).make()
        self.folder = folder

    def back_up(self, seed: int) -> int:
        self.clock.advance(3600)
        write_tree(self.folder / f"{seed}", some_files(seed, count=2))
        return self.world.back_up(self.folder / f"{seed}").backup.sequence

    def verify(self, depth: Depth = Depth.STRUCTURE) -> None:
        self.clock.advance(3600)
        vault = self.world.open("reader")
        report = verify_vault(vault, VerifyOptions(depth=depth))
        note_verification(vault, report, frozenset(vault.history.backups), self.world.open().secrets)

    def notes(self) -> list[str]:
        return [info.key for info in self.store.list("verified/")]

    def said(self) -> list[dict[int, tuple[datetime, str]]]:
        """What each depth says of the live backups."""
        vault = self.world.open()
        live = vault.history.backups.keys()
        found = [verified_by(vault, depth) for depth in Depth]
        return [{number: (one.at, one.depth) for number, one in of.items() if number in live} for of in found]


def test_a_collection_removes_notes_that_newer_ones_make_needless(tmp_path: Path) -> None:
    noted = Noted(tmp_path)
    first = noted.back_up(1)
    noted.verify(Depth.FULL)
    second = noted.back_up(2)
    for _ in range(5):
        noted.verify(Depth.SAMPLE)
        noted.verify()
    third = noted.back_up(3)
    noted.verify()
    vault, _ = collect(noted.world.open("admin"))
    assert len(noted.notes()) == 12, "they are not a day old"
    said, sample = noted.said(), verifications(noted.world.open(), depths=frozenset({"sample", "full"}))[0]
    assert [set(one) for one in said] == [{first, second, third}, {first, second}, {first}]
    noted.clock.advance(timedelta(days=2).total_seconds())
    noted.store.put("verified/20270101T000000.000000Z-full-rubbish.json", b"{}", mode=CREATE)
    _, report = collect(vault)
    assert (report.deleted_entries, len(noted.notes())) == (9, 4), "rubbish that is young stays as well"
    assert noted.said() == said
    forget(noted.world.open("admin"), Keep(last=1))
    noted.clock.advance(timedelta(days=2).total_seconds())
    collect(noted.world.open("admin"))
    assert noted.said() == [{third: said[0][third]}, {}, {}]
    assert verifications(noted.world.open(), depths=frozenset({"sample", "full"}))[0] == sample, (
        "the next one begins there"
    )
    assert len(noted.notes()) == 2


def test_a_note_under_a_name_of_another_depth_says_no_more_than_it_is(tmp_path: Path) -> None:
    """Anybody who may create objects can copy a signed note."""
    noted = Noted(tmp_path)
    number = noted.back_up(1)
    noted.verify()
    (key,) = noted.notes()
    noted.store.put(key.replace("structure", "full"), noted.store.get(key), mode=CREATE)
    vault = noted.world.open()
    assert list(verified_by(vault)) == [number]
    assert verified_by(vault, Depth.SAMPLE) == verified_by(vault, Depth.FULL) == {}
