"""Restores into the three emulated clouds: large objects create-only, nothing replaced, parts of a broken one gone."""

from __future__ import annotations

import random
import uuid
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.objectstore import open_store
from holdfast.engine.objectstore.parts import part_store
from holdfast.engine.snapshot import latest, open_snapshot, take_and_publish
from holdfast.engine.vault.backups import find_backup
from holdfast.engine.vault.published import restore_as_snapshot
from holdfast.engine.vault.restore import restore_backup
from holdfast.engine.vault.targets import PrefixTarget
from holdfast.errors import Refused
from vault_world import VaultWorld, write_tree

TOPOLOGY = Path(__file__).resolve().parents[3] / "include" / "holdfast.yaml"
SITES = ("aws-eu-west-1", "gcp-europe-west1", "azure-westeurope")
FILES = {
    "large.bin": random.Random(3).randbytes(20 * 1024 * 1024 + 7),
    "small/a": b"a" * 1000,
    "small/ü b+c": b"odd",
    "empty": b"",
}


@pytest.fixture(params=SITES)
def store(request, sandbox):
    environ = sandbox.environment()
    topology = load_topology(TOPOLOGY, environ)
    site = topology.site(request.param).model_copy(update={"prefix": f"vault-tests/{uuid.uuid4().hex}"})
    return open_store(request.param, site, EnvironmentConnections(environ).get(site.connection))


@pytest.fixture
def vault(tmp_path):
    world = VaultWorld(clock=SystemClock()).make()
    write_tree(tmp_path / "source", FILES)
    world.back_up(tmp_path / "source")
    return world.open("reader")


def test_a_restore_below_a_prefix_holds_every_byte_and_runs_again(store, vault):
    target = PrefixTarget(store, "restored/", read_back=True)
    report = restore_backup(vault, find_backup(vault), target)
    assert report.restored == len(FILES)
    assert {i.key.removeprefix("restored/"): store.get(i.key) for i in store.list("restored/")} == FILES
    again = restore_backup(vault, find_backup(vault), PrefixTarget(store, "restored/"))
    assert (again.restored, again.kept) == (0, len(FILES))


@pytest.mark.parametrize("path", ["large.bin", "small/a"])
def test_nothing_that_is_there_is_replaced_also_by_a_large_object(store, vault, path):
    class Blind(PrefixTarget):
        """Does not look before it writes: the store itself must refuse."""

        def has(self, row):
            return False

    store.put(f"restored/{path}", b"theirs")
    with pytest.raises(Refused):
        restore_backup(vault, find_backup(vault), Blind(store, "restored/"))
    assert store.get(f"restored/{path}") == b"theirs"


def test_a_large_object_that_is_not_authentic_leaves_nothing_behind(store, vault):
    class Bent(PrefixTarget):
        def write(self, row, pieces):
            def broken():
                yield next(pieces)
                yield next(pieces)
                raise RuntimeError("the vault is damaged")

            super().write(row, broken() if row.path == "large.bin" else pieces)

    with pytest.raises(RuntimeError):
        restore_backup(vault, find_backup(vault), Bent(store, "restored/"))
    assert not [info for info in store.list("restored/") if info.key.endswith("large.bin")]
    assert not list(part_store(store).uploads("restored/"))


def test_a_snapshot_is_published_beside_what_the_site_has(store, vault):
    store.put("data/market/large.bin", b"theirs")
    store.put("data/market/mine", b"mine")
    clock = SystemClock()
    take_and_publish(store, dataset="market", path="market", epoch=1, site="here", clock=clock)
    done = restore_as_snapshot(
        vault, find_backup(vault), store, site="here", dataset="market", path="market", epoch=1, clock=clock
    )
    opened = open_snapshot(store, latest(store, "market", epoch=1))
    assert opened.record == done.record
    assert {path: opened.read(path) for path in opened.manifest.paths} == FILES
    assert store.get("data/market/large.bin") == b"theirs"
    store.put("data/market/new", b"new")
    taken = take_and_publish(store, dataset="market", path="market", epoch=1, site="here", clock=clock)
    opened = open_snapshot(store, taken)
    assert {path: opened.read(path) for path in opened.manifest.paths} == {**FILES, "new": b"new"}
