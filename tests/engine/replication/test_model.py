"""Random histories against a model: a site shows a published snapshot exactly, whatever was changed or killed."""

from __future__ import annotations

import threading

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.clock import FakeClock
from holdfast.engine.config import Site
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.replication import SourceChanged, StaleSource, replicate
from holdfast.engine.snapshot import (
    DatasetEmpty,
    EpochUnknownHere,
    begin_epoch,
    latest,
    new_fork,
    open_snapshot,
    take_and_publish,
    verify,
)

SITES = ("aws", "gcp", "azure")
CONFIG = {name: Site(cloud=name, region="r", jurisdiction="EU", connection="c", bucket="b") for name in SITES}
NAMES = st.sampled_from(["a", "b", "c/d", "c/e", "long/path/x.parquet"])


class Dying:
    """A store that stops answering at its n-th operation, with or without having done it."""

    def __init__(self, store, at, after):
        self._store, self._left, self._after, self._lock = store, at, after, threading.Lock()

    name = property(lambda self: self._store.name)

    def capabilities(self):
        return self._store.capabilities()

    def __getattr__(self, verb):
        def call(*args, **kwargs):
            with self._lock:
                self._left -= 1
                left = self._left
            if left < 0 and not (left == -1 and self._after):
                raise StoreUnavailable("gone", outcome_unknown=verb == "put")
            result = getattr(self._store, verb)(*args, **kwargs)
            result = iter(list(result)) if verb == "list" else result
            if left < 0:
                raise StoreUnavailable("gone", outcome_unknown=verb == "put")
            return result

        return call


class Histories(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.stores = {name: memory_store(name) for name in SITES}
        self.active, self.epoch = "aws", 1
        #: What the dataset holds, as its writers at the active site see it.
        self.live: dict[str, bytes] = {}
        #: snapshot id → exactly what was published.
        self.published: dict[str, dict[str, bytes]] = {}
        #: Sites that were active before: their writers do not know that they are not any more.
        self.zombies: dict[str, int] = {}

    def see(self, site, record):
        opened = open_snapshot(self.stores[site], record)
        return {path: opened.read(path) for path in opened.manifest.paths}

    @rule(name=NAMES, data=st.binary(max_size=4))
    def write(self, name, data):
        self.stores[self.active].put(f"data/market/{name}", data)
        self.live[name] = data

    @precondition(lambda self: self.live)
    @rule(choice=st.randoms(use_true_random=False))
    def remove(self, choice):
        name = choice.choice(sorted(self.live))
        self.stores[self.active].delete(f"data/market/{name}")
        del self.live[name]

    @rule()
    def publish(self):
        self.clock.advance(1)
        try:
            record = take_and_publish(
                self.stores[self.active],
                dataset="market",
                path="market",
                epoch=self.epoch,
                site=self.active,
                clock=self.clock,
                threads=2,
            )
        except DatasetEmpty:
            assert not self.live
            return
        self.published[record.snapshot_id] = dict(self.live)
        assert self.see(self.active, record) == self.live

    @rule(to=st.sampled_from(SITES), dies=st.none() | st.integers(0, 40), after=st.booleans(), at_source=st.booleans())
    def bring(self, to, dies, after, at_source):
        record = latest(self.stores[self.active], "market", epoch=self.epoch)
        if record is None or to == self.active:
            return
        source, there = self.stores[self.active], self.stores[to]
        if dies is not None and at_source:
            source = Dying(source, dies, after)
        elif dies is not None:
            there = Dying(there, dies, after)
        self.clock.advance(1)
        try:
            replicate(
                source,
                there,
                record=record,
                source_site=self.active,
                target_site=to,
                residency=None,
                topology_sites=CONFIG,
                clock=self.clock,
                threads=2,
            )
        except SourceChanged:
            assert self.live != self.published[record.snapshot_id]
        except StoreUnavailable:
            assert dies is not None
        else:
            assert latest(self.stores[to], "market", epoch=self.epoch) == record

    @rule(to=st.sampled_from(SITES))
    def fail_over(self, to):
        """The target is promoted to what it holds; the old active site lives on as a zombie."""
        try:
            point = latest(self.stores[to], "market", epoch=self.epoch)
        except EpochUnknownHere:
            return
        if to == self.active or point is None or not verify(self.stores[to], point).ok:
            return  # a plan promotes verified recovery points only
        self.zombies[self.active] = self.epoch
        self.zombies.pop(to, None)
        self.active, self.epoch = to, self.epoch + 1
        begin_epoch(
            self.stores[to],
            point,
            new_fork(
                "market",
                epoch=self.epoch,
                parent_epoch=self.epoch - 1,
                forked_from=point.snapshot_id,
                site=to,
                plan_id=f"p{self.epoch}",
                holder="test",
                reason="test",
                created_at=self.clock.now(),
            ),
        )
        self.live = dict(self.published[point.snapshot_id])

    @precondition(lambda self: self.zombies)
    @rule(name=NAMES, data=st.binary(max_size=4), to=st.sampled_from(SITES), choice=st.randoms(use_true_random=False))
    def a_zombie_writes_publishes_and_replicates(self, name, data, to, choice):
        zombie = choice.choice(sorted(self.zombies))
        epoch, store = self.zombies[zombie], self.stores[zombie]
        store.put(f"data/market/{name}", data)
        self.clock.advance(1)
        try:
            record = take_and_publish(
                store, dataset="market", path="market", epoch=epoch, site=zombie, clock=self.clock
            )
            if to != zombie:
                replicate(
                    store,
                    self.stores[to],
                    record=record,
                    source_site=zombie,
                    target_site=to,
                    residency=None,
                    topology_sites=CONFIG,
                    clock=self.clock,
                    threads=2,
                )
        except (StaleSource, DatasetEmpty, SourceChanged, EpochUnknownHere):
            pass

    @invariant()
    def every_site_shows_nothing_or_a_published_snapshot_exactly(self):
        for site in SITES:
            try:
                record = latest(self.stores[site], "market", epoch=self.epoch)
            except EpochUnknownHere:
                assert site != self.active
                continue
            if record is None:
                continue
            # The active site's own objects may have been overwritten since by its writers; a replica's never are.
            assert record.snapshot_id in self.published, f"{site} shows what nobody of this lineage published"
            if site != self.active and site not in self.zombies:
                assert self.see(site, record) == self.published[record.snapshot_id]


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=50,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
