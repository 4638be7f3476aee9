"""What a collection says beforehand, and what it leaves behind."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.vault.collect import CollectOptions, CollectReport, collect
from holdfast.engine.vault.forget import Keep, forget
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
