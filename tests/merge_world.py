"""What the tests of the merge share: two sites that are written to, a third that is served, and a model of updates.

Every write has bytes of its own, so a value tells which write it is. The rule of all tests: whatever a writer did
last at its site is in a published snapshot, or was named as overruled; nothing that was replaced ever comes back; and
a snapshot once shown shows the same bytes for ever, as long as no writer overwrote them at their own key.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.clock import FakeClock
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.replication.merge import MergeJob, merge_dataset
from holdfast.engine.replication.merge_note import read_overruled
from holdfast.engine.replication.reports import Overruled, SyncReport
from holdfast.engine.replication.sync import SyncSite, sync_dataset
from holdfast.engine.snapshot import CommitRecord, digest_of, keys, latest, load_manifest, open_snapshot, records
from holdfast.engine.snapshot.placement import is_replica, locate
from sync_harms import HarmedStore, Trace
from sync_world import DATASET, FOLDER, SITES, see

HERE, THERE, ELSEWHERE = "aws", "gcp", "azure"
WRITTEN = (HERE, THERE)
PREFIX = f"data/{FOLDER}/"


@dataclass(frozen=True)
class Event:
    """A write (``value``) or a removal (``None``) by a site's own writers, after so many snapshots."""

    site: str
    path: str
    value: bytes | None
    snapshots: int


class MergeWorld:
    """Two written sites and another, in memory unless told otherwise; a first snapshot is everywhere."""

    def __init__(
        self, files: Mapping[str, bytes], *, winner: str = HERE, stores: Mapping[str, ObjectStore] | None = None
    ) -> None:
        self.stores = dict(stores or {name: memory_store(name) for name in SITES})
        self.clock = FakeClock()
        self.winner = winner
        self.events: list[Event] = []
        #: Everything that was ever written, by digest, and every path that was ever removed.
        self.written: dict[str, str] = {}
        self.removed: set[str] = set()
        self._number = 0
        for path, data in files.items():
            self.stores[HERE].put(PREFIX + path, data)
        self.clock.advance(1)
        if files:
            self.sync_one_way()

    def sync_one_way(self) -> SyncReport:
        self.clock.advance(1)
        return sync_dataset(
            SyncSite(HERE, self.stores[HERE]),
            [SyncSite(name, self.stores[name]) for name in (THERE, ELSEWHERE)],
            **self._common(Sync()),
        )

    def merge(self, trace: Trace | None = None, *, policy: Sync | None = None, **kwargs: Any) -> SyncReport:
        self.clock.advance(1)
        policy = (policy or Sync()).model_copy(update={"direction": "active-active", "winner": self.winner})
        sites = [SyncSite(n, s if trace is None else HarmedStore(s, n, trace)) for n, s in self.stores.items()]
        common = self._common(policy) | {"threads": 1} | kwargs
        return merge_dataset(MergeJob(sites[0], sites[1], sites[2:], winner=self.winner, **common))

    def _common(self, policy: Sync) -> dict[str, Any]:
        return {
            "dataset": DATASET,
            "folder": FOLDER,
            "policy": policy,
            "epoch": 1,
            "residency": None,
            "topology_sites": SITES,
            "clock": self.clock,
        }

    # -- writers -------------------------------------------------------------------------------------------------------

    def put(self, site: str, path: str, data: bytes | None = None) -> bytes:
        """A writer's own object; bytes nobody wrote before unless they are given."""
        self._number += 1
        data = f"{site} {self._number}".encode() if data is None else data
        self.stores[site].put(PREFIX + path, data)
        self.written[digest_of(data)] = path
        self.events.append(Event(site, path, data, len(self.snapshots())))
        return data

    def drop(self, site: str, path: str) -> None:
        self.stores[site].delete(PREFIX + path)
        self.removed.add(path)
        if self._shows_no_own_key(site, path):  # what it wrote since is taken back: nothing tells of it
            self.events = [event for event in self.events if (event.site, event.path) != (site, path)]
        else:
            self.events.append(Event(site, path, None, len(self.snapshots())))

    def _shows_no_own_key(self, site: str, path: str) -> bool:
        """Whether the newest snapshot, committed or prepared at a site, has the object with nothing at its own key."""
        for record in reversed(self.snapshots()):
            if not list(self.stores[site].list(keys.placement_prefix(DATASET, record.snapshot_id))):
                continue
            placed = locate(self.stores[site], record, load_manifest(self.stores[site], record)).get(path)
            return placed is not None and placed.key != PREFIX + path and placed.other_modified_at is None
        return False

    def may_drop(self, site: str, path: str) -> bool:
        """Whether something lies there that a writer knows of: its own, or of the newest snapshot."""
        try:
            found = self.stores[site].open(PREFIX + path)
        except ObjectNotFound:
            return False
        if not is_replica(found.metadata, path):
            return True
        newest = self.latest(site)
        assert newest is not None
        manifest = load_manifest(self.stores[site], newest)
        return path in manifest.paths and manifest.entry(path).digest == digest_of(b"".join(found))

    def mutate(self, rng: random.Random, names: Sequence[str]) -> None:
        """One change by a writer at one of the two sites."""
        site, path = rng.choice(WRITTEN), rng.choice(list(names))
        if rng.random() < 0.3 and self.may_drop(site, path):
            self.drop(site, path)
        else:
            self.put(site, path)

    # -- what is to be seen --------------------------------------------------------------------------------------------

    def latest(self, site: str) -> CommitRecord | None:
        return latest(self.stores[site], DATASET, epoch=1)

    def shows(self, site: str) -> dict[str, bytes]:
        record = self.latest(site)
        return {} if record is None else see(self.stores[site], record)

    def snapshots(self) -> list[CommitRecord]:
        return records(self.stores[HERE], DATASET)

    def overruled(self, since: int = 0) -> list[Overruled]:
        """Named by the notes beside committed snapshots, from the n-th on."""
        found = self.snapshots()[since:]
        return [one for record in found for one in read_overruled(self.stores[HERE], DATASET, record.snapshot_id)]

    def at(self, site: str, path: str) -> bytes | None:
        """What lies at an object's own key."""
        try:
            return self.stores[site].get(PREFIX + path)
        except ObjectNotFound:
            return None

    def check_replica_is_whole(self) -> None:
        """At the site without writers every snapshot stays readable, whatever is written at the other two."""
        for record in records(self.stores[ELSEWHERE], DATASET):
            see(self.stores[ELSEWHERE], record)

    def check_agreed(self) -> dict[str, bytes]:
        """All three show the same snapshot, byte for byte."""
        newest = {site: self.latest(site) for site in SITES}
        assert len({record.snapshot_id for record in newest.values() if record is not None}) == 1, newest
        shown = [self.shows(site) for site in SITES]
        assert shown[0] == shown[1] == shown[2]
        return shown[0]

    def check_no_update_is_lost(self, *, initial: Mapping[str, bytes]) -> None:
        """After writers were quiet and two merges ran: every writer's last word is accounted for."""
        digests = [_digests(self.stores[HERE], record) for record in self.snapshots()]
        last = {(event.site, event.path): event for event in self.events}
        for event in last.values():
            named = [one for one in self.overruled(event.snapshots) if (one.site, one.path) == (event.site, event.path)]
            if event.value is None:
                stood = any(event.path not in shown for shown in digests[max(event.snapshots - 1, 0) :])
                assert stood or any(one.what == "deleted" for one in named), f"lost: {event}"
            else:
                digest = digest_of(event.value)
                stood = any(shown.get(event.path) == digest for shown in digests)
                assert stood or any(one.digest == digest for one in named), f"lost: {event}"
                if not stood:
                    assert self.at(event.site, event.path) == event.value, f"overruled and gone: {event}"
        known = {digest_of(data): path for path, data in initial.items()}
        known |= self.written
        for path in {path for shown in digests for path in shown}:
            values = [shown.get(path) for shown in digests]
            runs = [value for n, value in enumerate(values) if n == 0 or value != values[n - 1]]
            there = [value for value in runs if value is not None]
            assert len(there) == len(set(there)), f"{path} came back: {there}"
            assert all(known.get(value) == path for value in there), f"{path} shows bytes nobody wrote"
            assert path in self.removed or None not in runs[1:], f"{path} went and nobody removed it"


def _digests(store: ObjectStore, record: CommitRecord) -> dict[str, str]:
    opened = open_snapshot(store, record)
    return dict(zip(opened.manifest.paths, opened.manifest.table["digest"].to_pylist(), strict=True))
