"""Random histories of writes, syncs, deletes, undos, rollbacks, crashes: nothing needed is lost, nothing goes early."""

from __future__ import annotations

from contextlib import suppress

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.clock import FakeClock
from holdfast.engine.config import Site
from holdfast.engine.config.sync import Deletes
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.replication import SourceChanged, replicate
from holdfast.engine.replication.deletes import DeletesNeedApproval, Keep, SourceState, mark, remove, undo
from holdfast.engine.replication.tombstones import read_graveyard
from holdfast.engine.snapshot import (
    BytesBeingRemoved,
    DatasetEmpty,
    latest,
    open_snapshot,
    rollback,
    selectable,
    take_and_publish,
)
from holdfast.engine.snapshot.removals import expired_ids

SITES = ("aws", "gcp")
CONFIG = {name: Site(cloud=name, region="r", jurisdiction="EU", connection="c", bucket="b") for name in SITES}
NAMES = st.sampled_from(["a", "b", "c/d", "c/e"])
DELAY = 1000.0
POLICY = Deletes(enabled=True, delay_seconds=DELAY, most_objects=2, most_share=0.5)
GOOD = SourceState("aws", healthy=True, listing_complete=True)


class Dead(Exception):
    """The process of a delete run is gone."""


class Dying(StoreDecorator):
    def __init__(self, inner, left):
        super().__init__(inner)
        self.left = left

    def _step(self):
        self.left -= 1
        if self.left < 0:
            raise Dead

    def list(self, prefix="", **kwargs):
        self._step()
        return iter(list(self.inner.list(prefix, **kwargs)))

    def get(self, key, **kwargs):
        self._step()
        return self.inner.get(key, **kwargs)

    def put(self, key, data, **kwargs):
        self._step()
        return self.inner.put(key, data, **kwargs)

    def delete(self, key):
        self._step()
        self.inner.delete(key)


class Histories(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.stores = {name: memory_store(name) for name in SITES}
        self.live: dict[str, bytes] = {}
        self.published: dict[str, dict[str, bytes]] = {}
        #: When the replica's newest snapshot last named a key; and what a person undid.
        self.needed_at: dict[str, object] = {}
        self.undone: dict[str, object] = {}

    def keys(self):
        return {info.key: info.version for info in self.stores["gcp"].list("data/")}

    def line(self):
        return [record.snapshot_id for record in selectable(self.stores["gcp"], "market", epoch=1)]

    def note(self):
        newest = latest(self.stores["gcp"], "market", epoch=1)
        if newest is not None:
            for place in open_snapshot(self.stores["gcp"], newest).placed.values():
                if place.key is not None:
                    self.needed_at[place.key] = self.clock.now()

    @rule(name=NAMES, data=st.binary(min_size=1, max_size=2))
    def write(self, name, data):
        self.stores["aws"].put(f"data/market/{name}", data)
        self.live[name] = data

    @precondition(lambda self: self.live)
    @rule(choice=st.randoms(use_true_random=False))
    def remove_at_source(self, choice):
        name = choice.choice(sorted(self.live))
        self.stores["aws"].delete(f"data/market/{name}")
        del self.live[name]

    @rule()
    def sync(self):
        self.clock.advance(1)
        with suppress(DatasetEmpty):
            record = take_and_publish(
                self.stores["aws"], dataset="market", path="market", epoch=1, site="aws", clock=self.clock, threads=2
            )
            self.published[record.snapshot_id] = dict(self.live)
        self.bring()

    def bring(self):
        record = latest(self.stores["aws"], "market", epoch=1)
        if record is None:
            return
        with suppress(BytesBeingRemoved, SourceChanged):  # a run that died left an intent; the next sync gets through
            replicate(
                self.stores["aws"],
                self.stores["gcp"],
                record=record,
                source_site="aws",
                target_site="gcp",
                residency=None,
                topology_sites=CONFIG,
                clock=self.clock,
                threads=2,
            )
        self.note()

    @precondition(lambda self: len(self.published) > 1)
    @rule(choice=st.randoms(use_true_random=False))
    def roll_back(self, choice):
        self.clock.advance(1)
        to = choice.choice(list(self.published))  # in order of publishing: ids differ from run to run
        newest = latest(self.stores["aws"], "market", epoch=1)
        if newest.snapshot_id == to:
            return
        from holdfast.engine.snapshot import BytesGone

        with suppress(BytesGone):
            record = rollback(
                self.stores, "market", to=to, epoch=1, site="aws", clock=self.clock, reason="test", restore_live=True
            )
            wanted = self.published[to]
            self.published[record.snapshot_id] = dict(wanted)
            # What is not in the snapshot stays in the folder, known as a leftover, until somebody writes it again.
            for name in set(self.live) - set(wanted):
                self.stores["aws"].delete(f"data/market/{name}")
            self.live = {
                info.key.removeprefix("data/market/"): self.stores["aws"].get(info.key)
                for info in self.stores["aws"].list("data/market/")
                if ".versions" not in info.key
            }
            assert self.live == wanted
        self.bring()

    @rule(seconds=st.sampled_from([10.0, 600.0, 1200.0, 7200.0]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def mark(self):
        self.clock.advance(1)
        self.note()
        arguments = {"site": "gcp", "epoch": 1, "policy": POLICY, "source": GOOD, "clock": self.clock}
        try:
            made = mark(self.stores["gcp"], "market", **arguments)
            counted = [item for one in made for item in one.objects if item.why != "stray"]
            assert len(counted) <= POLICY.most_objects
        except DeletesNeedApproval as asked:
            mark(self.stores["gcp"], "market", approve=asked.approval_id, **arguments)

    @rule(choice=st.randoms(use_true_random=False))
    def undo(self, choice):
        pending = read_graveyard(self.stores["gcp"], "market").pending
        if not pending:
            return
        tombstone = choice.choice(sorted((one.tombstone for one in pending), key=lambda one: one.marked_at))
        report = undo(self.stores["gcp"], "market", tombstone.id, clock=self.clock, reason="test")
        there = self.keys()
        for item in tombstone.objects:
            if item.path in report.kept and item.path not in report.too_late:
                self.undone[item.key] = there[item.key]

    @rule(keep=st.none() | st.integers(1, 3), dies=st.none() | st.integers(0, 40))
    def remove(self, keep, dies):
        self.note()
        before = self.keys()
        begun = expired_ids(self.stores["gcp"], "market")  # by a run that died: any later one ends it
        line = [name for name in self.line() if name not in begun]
        store = self.stores["gcp"] if dies is None else Dying(self.stores["gcp"], dies)
        with suppress(Dead):
            remove(
                store,
                "market",
                site="gcp",
                epoch=1,
                policy=POLICY,
                source=GOOD,
                clock=self.clock,
                keep=None if keep is None else Keep(newest=keep),
            )
        after = self.keys()
        for key in before.keys() - after.keys():
            needed = self.needed_at.get(key)
            assert needed is None or (self.clock.now() - needed).total_seconds() >= DELAY, f"{key} went early"
            assert self.undone.get(key) != before[key], f"{key} was undone and went"
        still = [name for name in self.line() if name not in begun]
        assert still == line[: len(still)]
        assert len(still) >= min(len(line), keep or len(line))

    @invariant()
    def every_selectable_snapshot_is_whole_at_the_replica(self):
        for record in selectable(self.stores["gcp"], "market", epoch=1):
            opened = open_snapshot(self.stores["gcp"], record)
            assert {path: opened.read(path) for path in opened.manifest.paths} == self.published[record.snapshot_id]

    def teardown(self):
        """In the end everything the newest snapshot does not need can be freed, but what a person undid."""
        self.clock.advance(3 * 7200)
        self.bring()
        newest = latest(self.stores["gcp"], "market", epoch=1)
        if newest is None:
            return
        self.mark()
        self.clock.advance(DELAY + 1)
        self.remove(keep=1, dies=None)
        self.mark()
        self.clock.advance(DELAY + 1)
        self.remove(keep=1, dies=None)
        placed = {row.key for row in open_snapshot(self.stores["gcp"], newest).placed.values()}
        there = self.keys()
        assert {k for k in there if self.undone.get(k) != there[k]} <= placed
        self.every_selectable_snapshot_is_whole_at_the_replica()


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
