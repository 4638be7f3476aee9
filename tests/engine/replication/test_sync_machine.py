"""Random histories of a synced dataset against a model: writers, syncs, publishing alone, rollbacks, deletes, crashes.

The model is a dict: what the dataset holds, and what every snapshot id must show for ever after at every site.
"""

from __future__ import annotations

import random

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from holdfast.engine.config.sync import Deletes, Sync, Verification
from holdfast.engine.objectstore import memory_store
from holdfast.engine.replication.deletes import Keep, SourceState, mark, remove
from holdfast.engine.snapshot import DatasetEmpty, latest, records, take_and_publish
from holdfast.engine.snapshot.rollback import BytesGone, rollback
from holdfast.errors import HoldfastError
from sync_harms import Cut, HarmedStore, Kill, Killed, Movement, Trace
from sync_world import DATASET, FOLDER, World, see

NAMES = st.sampled_from(["a", "b", "c/d", "c/_SUCCESS", "long/path/x.parquet"])
SITES = ("aws", "gcp", "azure")
#: Deletes at once and without a person: how careful they are has tests of its own; here no byte in use may go.
AT_ONCE = Deletes(enabled=True, delay_seconds=0, most_objects=1000, most_share=1.0)


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World({name: memory_store(name) for name in SITES})
        self.policy = Sync()
        #: snapshot id → what it showed when it was first seen.
        self.first_seen: dict[str, dict[str, bytes]] = {}

    @initialize(
        verify=st.sampled_from([Verification.ALL, Verification.PROVIDER]), layout=st.sampled_from(["direct", "staged"])
    )
    def choose_a_policy(self, verify, layout):
        self.policy = Sync(verify=verify, layout=layout)

    @rule(name=NAMES, data=st.binary(max_size=4))
    def write(self, name, data):
        self.world.source.put(name, data)

    @precondition(lambda self: self.world.source.removable())
    @rule(choice=st.randoms(use_true_random=False))
    def remove_an_object(self, choice):
        self.world.source.delete(choice.choice(self.world.source.removable()))

    @precondition(lambda self: self.first_seen)
    @rule(choice=st.randoms(use_true_random=False))
    def roll_back(self, choice):
        """The dataset is what an earlier snapshot showed; later writes go on from there."""
        to = choice.choice(sorted(self.first_seen))
        before = self.world.latest("aws")
        self.world.clock.advance(1)
        try:
            record = rollback(
                self.world.stores, DATASET, to=to, epoch=1, site="aws", clock=self.world.clock, reason="test"
            )
        except BytesGone:
            assert self.world.latest("aws") == before
            return
        assert self.world.latest("aws") == record
        assert see(self.world.stores["aws"], record) == self.first_seen[to]
        if record != before:
            self.world.source.rolled_back(self.first_seen[to])

    @rule(
        site=st.sampled_from(SITES[1:]),
        keep=st.sampled_from([None, Keep(1), Keep(2)]),
        dies=st.none() | st.integers(0, 40),
    )
    def delete_at_a_target(self, site, keep, dies):
        """Bytes no snapshot needs go; with `keep` also old snapshots."""
        store = HarmedStore(self.world.stores[site], site, Trace([] if dies is None else [Kill(dies)]))
        source = SourceState("aws", healthy=True, listing_complete=True)
        common = {"site": site, "epoch": 1, "policy": AT_ONCE, "source": source, "clock": self.world.clock}
        newest = self.world.latest(site)
        self.world.clock.advance(1)
        try:
            mark(store, DATASET, **common)
            self.world.clock.advance(1)
            remove(store, DATASET, keep=keep, **common)
        except Killed:
            pass
        assert self.world.latest(site) == newest

    @precondition(lambda self: self.world.source.live)
    @rule()
    def sync(self):
        report = self.world.sync(policy=self.policy)
        assert [target.error or target.refused for target in report.targets] == [None, None]
        for site in self.world.targets:
            assert self.world.shows(site) == self.world.source.live
        self.world.source.seen()
        newest = self.world.latest("aws")
        assert newest is not None
        assert [self.world.latest(site) for site in self.world.targets] == [newest, newest]

    @precondition(lambda self: self.world.source.live)
    @rule()
    def sync_again_changes_nothing(self):
        self.world.sync(policy=self.policy)
        before = self.world.latest("aws")
        report = self.world.sync(policy=self.policy)
        assert report.record is None
        assert report.changed_objects == 0
        assert sum(target.copied_objects for target in report.targets) == 0
        assert self.world.latest("aws") == before

    @rule()
    def publish_alone(self):
        """A snapshot somebody took at the source; the next sync brings it or a newer one."""
        self.world.clock.advance(1)
        try:
            take_and_publish(
                self.world.stores["aws"], dataset=DATASET, path=FOLDER, epoch=1, site="aws", clock=self.world.clock
            )
        except DatasetEmpty:
            assert not self.world.source.live

    @precondition(lambda self: self.world.source.live)
    @rule(at=st.integers(0, 60), after=st.booleans())
    def crash_during_a_sync(self, at, after):
        self._disturbed(Kill(at, after_it=after))

    @precondition(lambda self: self.world.source.live)
    @rule(site=st.sampled_from(SITES), at=st.integers(0, 60), operations=st.sampled_from([1, 1000]))
    def a_site_is_cut_off_during_a_sync(self, site, at, operations):
        self._disturbed(Cut(site, at, operations))

    @precondition(lambda self: self.world.source.live)
    @rule(at=st.frozensets(st.integers(0, 40), max_size=3), seed=st.integers(0, 1000))
    def writers_go_on_during_a_sync(self, at, seed):
        names = ["a", "b", "c/d", "long/path/x.parquet"]
        self._disturbed(Movement(self.world.source, random.Random(seed), names, at))

    def _disturbed(self, harm):
        since = self.world.source.now()
        try:
            report = self.world.sync(Trace([harm]), policy=self.policy)
        except (HoldfastError, Killed):
            return
        self.world.check_claims(report, since)

    @invariant()
    def every_target_shows_only_what_the_source_once_was(self):
        self.world.check_everything_shown()

    @invariant()
    def a_snapshot_at_a_target_shows_the_same_for_ever(self):
        for site in self.world.targets:
            for record in records(self.world.stores[site], DATASET):
                shown = see(self.world.stores[site], record)
                assert self.first_seen.setdefault(record.snapshot_id, shown) == shown

    @invariant()
    def what_a_target_has_the_source_published(self):
        known = {record.snapshot_id for record in records(self.world.stores["aws"], DATASET)}
        for site in self.world.targets:
            newest = latest(self.world.stores[site], DATASET, epoch=1)
            assert newest is None or newest.snapshot_id in known, f"{site} shows what the source never published"

    def teardown(self):
        if not self.world.source.live:
            return
        self.sync()
        self.world.sweep()
        for site in self.world.targets:
            assert self.world.unfinished(site) == []


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
