"""What the tests of the sync share: a source with a history, its targets, and what must hold of them.

The rule of all of them: whatever a site shows is a state the source really had, byte for byte, and no older than the
run that claims it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from holdfast.clock import Clock, FakeClock, SystemClock
from holdfast.engine.config import Site
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.parts import (
    part_store,
    sweep_uploads,
)
from holdfast.engine.replication.sync import SyncReport, SyncSite, sync_dataset
from holdfast.engine.snapshot import CommitRecord, latest, open_snapshot, records
from sync_harms import HarmedStore, Trace

DATASET = FOLDER = "market"
SITES = {
    "aws": Site(cloud="aws", region="eu-west-1", jurisdiction="EU", connection="c", bucket="b"),
    "gcp": Site(cloud="gcp", region="europe-west1", jurisdiction="EU", connection="c", bucket="b"),
    "azure": Site(cloud="azure", region="westeurope", jurisdiction="EU", connection="c", bucket="b"),
}

State = Mapping[str, bytes]


class Source:
    """The dataset as its writers change it, and every state it ever had."""

    def __init__(self, store: ObjectStore, folder: str = FOLDER) -> None:
        self.store, self.folder = store, folder
        self._lock = threading.Lock()
        self._live: dict[str, bytes] = {}
        #: What a rollback brought back that had no key of its own. A writer who writes such an object and removes it
        #: again between two looks leaves no trace of either, so nobody can say that it is gone.
        self._brought_back: set[str] = set()
        self.states: list[dict[str, bytes]] = [{}]

    @property
    def live(self) -> dict[str, bytes]:
        with self._lock:
            return dict(self._live)

    def put(self, path: str, data: bytes) -> None:
        with self._lock:
            self.store.put(f"data/{self.folder}/{path}", data)
            self._live[path] = data
            self.states.append(dict(self._live))

    def delete(self, path: str) -> None:
        with self._lock:
            self.store.delete(f"data/{self.folder}/{path}")
            self._live.pop(path, None)
            self.states.append(dict(self._live))

    def rolled_back(self, state: State) -> None:
        """The dataset is an earlier state again; what lies at the objects' own keys stays and does not count."""
        with self._lock:
            self._live = dict(state)
            self._brought_back = set(state) - self._at_own_keys()
            self.states.append(dict(self._live))

    def removable(self) -> list[str]:
        """The objects whose removal a sync can notice, also when they were written since the last one."""
        return sorted(self._at_own_keys() - self._brought_back)

    def seen(self) -> None:
        """A sync looked, and nobody wrote meanwhile."""
        self._brought_back -= self._at_own_keys()

    def _at_own_keys(self) -> set[str]:
        folder = f"data/{self.folder}/"
        names = (info.key.removeprefix(folder) for info in self.store.list(folder))
        return {name for name in names if not name.startswith(".versions/")}

    def mutate(self, rng: random.Random, names: Sequence[str]) -> None:
        """One change by a writer: an object added, overwritten (often in its own size) or deleted."""
        live = self.live
        name = rng.choice(list(names))
        if name in live and len(live) > 1 and rng.random() < 0.3 and name in self.removable():
            self.delete(name)
            return
        size = len(live[name]) if name in live and rng.random() < 0.5 else rng.choice((0, 1, 10, 1000, 70_000))
        self.put(name, rng.randbytes(size))

    def now(self) -> int:
        """The number of the newest state."""
        with self._lock:
            return len(self.states) - 1

    def had(self, state: State, *, since: int = 0) -> bool:
        """Whether the source had exactly this state at some moment from ``since`` on."""
        with self._lock:
            return any(other == state for other in self.states[since:])


def see(store: ObjectStore, record: CommitRecord) -> dict[str, bytes]:
    """A snapshot's content, read through its manifest and placement, every byte checked."""
    opened = open_snapshot(store, record)
    return {path: opened.read(path) for path in opened.manifest.paths}


class World:
    """A source and its targets, in memory or in folders."""

    def __init__(self, stores: Mapping[str, ObjectStore], *, clock: Clock | None = None, source: str = "aws") -> None:
        self.stores = dict(stores)
        self.clock = clock or FakeClock()
        self.site = source
        self.source = Source(self.stores[source])
        self.targets = tuple(name for name in self.stores if name != source)

    def sync(
        self,
        trace: Trace | None = None,
        *,
        policy: Sync | None = None,
        threads: int = 1,
        epoch: int = 1,
        wrap: Callable[[str, ObjectStore], ObjectStore] = lambda _, store: store,
        **kwargs: Any,
    ) -> SyncReport:
        def store(name: str) -> ObjectStore:
            inner = self.stores[name]
            return wrap(name, inner if trace is None else HarmedStore(inner, name, trace))

        if isinstance(self.clock, FakeClock):
            self.clock.advance(1)
        return sync_dataset(
            SyncSite(self.site, store(self.site)),
            [SyncSite(name, store(name)) for name in self.targets],
            dataset=DATASET,
            folder=self.source.folder,
            policy=policy or Sync(),
            epoch=epoch,
            residency=None,
            topology_sites=SITES,
            clock=self.clock,
            threads=threads,
            **kwargs,
        )

    def latest(self, site: str, epoch: int = 1) -> CommitRecord | None:
        return latest(self.stores[site], DATASET, epoch=epoch)

    def shows(self, site: str) -> dict[str, bytes] | None:
        record = self.latest(site)
        return None if record is None else see(self.stores[site], record)

    def check_everything_shown(self) -> None:
        """Every record at every target is a state the source had; at the source every id is known too."""
        for site in self.targets:
            for record in records(self.stores[site], DATASET):
                shown = see(self.stores[site], record)
                assert self.source.had(shown), f"{site} shows {record.snapshot_id}, which never was: {sorted(shown)}"

    def check_claims(self, report: SyncReport, since: int) -> None:
        """A target reported as done shows a state that is not older than the run."""
        for target in report.targets:
            if target.error is None and target.refused is None:
                shown = self.shows(target.site) or {}
                assert self.source.had(shown, since=since), f"{target.site} is stale: {sorted(shown)}"

    def sweep(self, *, older_than_seconds: float = 0.0) -> None:
        for site in self.targets:
            # The stores' own clock: uploads begin by it, whatever clock the sync goes by.
            sweep_uploads(self.stores[site], "", older_than_seconds=older_than_seconds, clock=SystemClock())

    def unfinished(self, site: str) -> list[str]:
        """Keys of uploads that are neither finished nor aborted."""
        parts = part_store(self.stores[site])
        return [] if parts is None else [upload.key for upload in parts.uploads("")]
