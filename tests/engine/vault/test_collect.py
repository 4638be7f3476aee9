"""What a collection says beforehand, and what it leaves behind."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from holdfast.clock import FakeClock, SystemClock
from holdfast.engine.objectstore.interface import CREATE
from holdfast.engine.vault import layout
from holdfast.engine.vault.collect import CollectOptions, CollectReport, collect
from holdfast.engine.vault.forget import Keep, forget
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
