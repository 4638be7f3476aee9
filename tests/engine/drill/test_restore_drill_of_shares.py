"""A drill of a vault of shares plays the loss of a cloud: nothing is read from the share there, nor restored to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.drill.lost_shares import lost_sites
from holdfast.engine.drill.restore_drill import run_restore_drill
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.recovery.interface import Progress
from holdfast.engine.snapshot import open_snapshot, take_and_publish
from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.erasure import ErasureStore
from holdfast.engine.vault.sources import SnapshotSource
from vault_world import SMALL, VaultWorld
from world import AWS, AZURE, DATASET, GCP, World, make_world

SITES = (AZURE, AWS, GCP)


class Counted(StoreDecorator):
    """A store that remembers what was read of it."""

    def __init__(self, name: str) -> None:
        super().__init__(memory_store(name))
        self.read: list[str] = []
        self._lock = threading.Lock()

    def get(self, key: str, **options: Any) -> Any:
        with self._lock:
            self.read.append(key)
        return super().get(key, **options)

    def list(self, prefix: str = "", **options: Any) -> Iterator[Any]:
        with self._lock:
            self.read.append(prefix)
        return super().list(prefix, **options)


class Drills:
    """A dataset at AWS, and a vault whose packs are shares in all three clouds."""

    def __init__(self, folder: Path) -> None:
        self.world: World = make_world()
        self.world.environ["HOLDFAST_STATE"] = str(folder / "state")
        dataset = self.world.topology.dataset(DATASET).model_copy(update={"expectations": None})
        self.world.topology = self.world.topology.model_copy(update={"datasets": {DATASET: dataset}})
        self.shares = {site: Counted(site) for site in SITES}
        store = ErasureStore(list(self.shares.items()), clock=self.world.clock)
        self.vault = VaultWorld(store=store, clock=self.world.clock).make()
        self.folder = folder
        source = self.world.store(AWS)
        source.put("data/market-data/one.bin", b"one" * 50_000)
        record = take_and_publish(
            source, dataset=DATASET, path="market-data", epoch=1, site=AWS, clock=self.world.clock
        )
        back_up(self.vault.open(), SnapshotSource(DATASET, AWS, open_snapshot(source, record)), SMALL)

    def run(self, **more: Any) -> Any:
        return run_restore_drill(
            self.world,
            DATASET,
            open_vault=lambda: self.vault.open("reader"),
            vault_site=AZURE,
            share_sites=SITES,
            output=self.folder / "evidence",
            progress=self._progress,
            **more,
        )

    def _progress(self, told: Progress) -> None:
        if (told.step, told.phase) == ("restore", "begun"):
            for share in self.shares.values():
                share.read.clear()


@pytest.fixture
def drills(tmp_path: Path) -> Drills:
    return Drills(tmp_path)


def claim(journal: Any) -> Any:
    return next(one for one in journal.claims if one.name == "another_cloud")


def test_the_share_in_the_sources_cloud_is_taken_for_lost(drills: Drills) -> None:
    journal = drills.run()
    assert journal.verdict == "pass", journal.as_document()
    assert journal.target["site"] == GCP, "which holds a share, too, and is not lost"
    assert journal.vault["left_out"] == [AWS]
    assert [one["site"] for one in journal.vault["shares"]] == list(SITES)
    assert claim(journal).measured == f"gcp, without the shares at {AWS}"
    assert drills.shares[AWS].read == []
    assert any(key.startswith("packs/") for key in drills.shares[AZURE].read)


def test_a_vault_that_needs_the_lost_share_fails(drills: Drills) -> None:
    for info in list(drills.shares[AZURE].inner.list("packs/")):
        drills.shares[AZURE].inner.delete(info.key)
    journal = drills.run()
    assert (journal.verdict, journal.status) == ("fail", "failed")


def test_nothing_is_restored_into_the_cloud_that_is_taken_for_lost(drills: Drills) -> None:
    journal = drills.run(target_site=AWS)
    assert (journal.verdict, journal.error["error"]) == ("aborted", "NoPlaceForDrill")
    assert drills.run(target_site=AZURE).verdict == "pass"


def test_where_the_source_has_no_share_the_first_one_is_taken_for_lost() -> None:
    topology = make_world().topology
    assert lost_sites(topology, (GCP, AZURE), AWS) == (GCP,)
    assert lost_sites(topology, (GCP, AZURE), AZURE) == (AZURE,)
    assert lost_sites(topology, (GCP, AZURE), "a site that is no more") == (GCP,)
