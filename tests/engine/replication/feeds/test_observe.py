"""A run with a feed, from the poll to the acknowledgement: whatever fails or dies, no change stays hidden."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.config import Cloud, Connection, Site
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.objectstore.listing import list_table
from holdfast.engine.replication.feeds import (
    Change,
    Changes,
    FeedDamaged,
    FeedError,
    FeedRewound,
    FeedStateConflict,
    FeedUnavailable,
    Observation,
    Rejected,
    apply_changes,
    as_listed,
    load_state,
    observe,
    open_feed,
    settle,
)
from holdfast.errors import ConfigError

POLICY = Sync(reconcile_every_seconds=1000)
WHO: dict[str, Any] = {"dataset": "d", "site": "aws", "feed": "queue://"}


@dataclass
class QueueFeed:
    """A queue that hides what was polled until a reader dies, and forgets what was acknowledged."""

    waiting: list[Change] = field(default_factory=list)
    hidden: list[Change] = field(default_factory=list)
    rejected: tuple[Rejected, ...] = ()
    error: FeedError | None = None
    page: int = 3
    name: str = "queue://"
    identity: str = "queue://"

    def poll(self, cursor: str | None, limit: int) -> Changes:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        came, self.waiting = self.waiting[: self.page], self.waiting[self.page :]
        self.hidden += came
        return Changes(tuple(came), "", complete=not came, rejected=self.rejected, receipts=("r",) * len(came))

    def renew(self, changes: Changes) -> None:
        pass

    def acknowledge(self, changes: Changes) -> None:
        self.hidden = [change for change in self.hidden if change not in changes.changes]

    def reader_died(self) -> None:
        self.waiting, self.hidden = self.hidden + self.waiting, []


@dataclass
class World:
    source: Any = field(default_factory=memory_store)
    bucket: ObjectStore = field(default_factory=memory_store)
    feed: QueueFeed = field(default_factory=QueueFeed)
    clock: FakeClock = field(default_factory=FakeClock)
    writes: int = 0
    listings: int = 0

    def list_all(self) -> Any:
        self.listings += 1
        return list_table(self.source, "data/d/")

    def put(self, name: str, *, lost: bool = False) -> None:
        self.source.put(f"data/d/{name}", str(self.writes).encode() * 3)
        self._say(name, "put", lost)

    def delete(self, name: str, *, lost: bool = False) -> None:
        self.source.delete(f"data/d/{name}")
        self._say(name, "delete", lost)

    def _say(self, name: str, kind: Any, lost: bool) -> None:
        self.writes += 1
        self.clock.advance(1)
        if not lost:
            change = Change(f"data/d/{name}", kind, None, None, None, self.clock.now(), f"{self.writes:06d}")
            self.feed.waiting.append(change)

    def state(self) -> Any:
        return load_state(self.bucket, **WHO)

    def observe(self, **how: Any) -> Observation:
        return observe(
            self.feed,
            self.state(),
            source=self.source,
            folder="d",
            policy=POLICY,
            clock=self.clock,
            list_all=self.list_all,
            threads=2,
            **how,
        )

    def run(self, **how: Any) -> Observation:
        seen = self.observe(**how)
        settle(self.bucket, self.feed, self.state(), seen, snapshot_id=None, clock=self.clock)
        return seen

    def is_true(self, seen: Observation) -> bool:
        return bool(seen.listing.equals(list_table(self.source, "data/d/")))


@pytest.fixture
def world() -> World:
    made = World()
    for name in ("a", "b", "c", "d"):
        made.put(name)
    return made


def test_the_first_run_lists_and_the_next_ones_ask_only_for_what_changed(world: World) -> None:
    first = world.run()
    assert first.why_full == "no cursor yet"
    assert world.is_true(first)
    assert (world.feed.waiting, world.feed.hidden) == ([], [])
    world.put("a")
    world.delete("b")
    world.put("e")
    second = world.run()
    assert (second.why_full, second.report, second.is_known) == (None, None, False)
    assert world.is_true(second)
    third = world.run()
    assert third.is_known
    assert world.listings == 1


def test_nothing_is_written_when_nothing_changed(world: World) -> None:
    world.run()
    before = {info.key: info.version for info in world.bucket.list()}
    world.feed.waiting = [Change("data/d/a", "put", None, None, None, world.clock.now(), "000001")]  # said twice
    assert world.run().is_known
    assert {info.key: info.version for info in world.bucket.list()} == before
    assert world.feed.hidden == []


def test_a_full_listing_when_it_is_due_finds_what_was_lost_and_says_so(world: World) -> None:
    world.run()
    world.put("a", lost=True)
    world.delete("b", lost=True)
    world.put("c")
    hidden = world.run()
    assert not world.is_true(hidden)
    world.clock.advance(POLICY.reconcile_every_seconds)
    world.put("d")
    found = world.run()
    assert world.is_true(found)
    assert found.report is not None
    assert (found.report.missed, found.report.sample, found.report.said) == (2, ("data/d/a", "data/d/b"), 1)
    assert world.run().why_full is None


@pytest.mark.parametrize("error", [FeedUnavailable("away"), FeedDamaged("torn"), FeedRewound("gone")])
def test_a_feed_that_fails_is_replaced_by_a_full_listing(world: World, error: FeedError) -> None:
    world.run()
    world.put("a", lost=True)
    world.put("b")
    world.feed.error = error
    seen = world.run()
    assert world.is_true(seen)
    assert seen.why_full == str(error)


def test_a_message_that_cannot_be_understood_asks_for_a_full_listing_once(world: World) -> None:
    world.run()
    world.put("a", lost=True)
    world.feed.rejected = (Rejected("m", "no JSON", at=world.clock.now()),)
    world.clock.advance(1)
    assert world.is_true(world.run())
    later = world.run()  # the message still comes, what it may have said is known
    assert (later.why_full, len(later.rejected) > 0) == (None, True)


def test_a_run_that_dies_before_it_settles_is_repeated(world: World) -> None:
    world.run()
    world.put("a")
    world.delete("b")
    first = world.observe()  # … and dies
    assert world.observe().polled[0].changes == ()  # hidden from the next
    world.feed.reader_died()
    again = world.run()
    assert again.listing.equals(first.listing)
    assert world.is_true(again)


def test_of_two_runs_at_once_none_acknowledges_what_the_record_does_not_hold(world: World) -> None:
    world.run()
    state = world.state()
    world.feed.page = 1
    world.put("a")
    one = observe(world.feed, state, source=world.source, folder="d", policy=POLICY, clock=world.clock)
    world.put("b")
    other = observe(world.feed, state, source=world.source, folder="d", policy=POLICY, clock=world.clock)
    settle(world.bucket, world.feed, state, one, snapshot_id=None, clock=world.clock)
    with pytest.raises(FeedStateConflict):
        settle(world.bucket, world.feed, state, other, snapshot_id=None, clock=world.clock)
    assert [change.key for change in world.feed.hidden] == ["data/d/b"]
    world.feed.reader_died()
    assert world.is_true(world.run())


class Crash(BaseException):
    pass


@pytest.mark.parametrize("seed", range(20))
def test_crashes_and_lost_events_at_any_point_never_hide_a_change_for_longer_than_promised(seed: int) -> None:
    rng = random.Random(seed)
    world = World()
    for _ in range(30):
        for _ in range(rng.randrange(4)):
            act = rng.choice([world.put, world.put, world.delete])
            act(rng.choice("abcdef"), lost=rng.random() < 0.1)
        crash_at = rng.choice([0, 0, 1, 2, 3])
        state = world.state()
        seen = world.observe()
        bucket: Any = crashing(world.bucket, crash_at)
        try:
            if crash_at == 0 and rng.random() < 0.3:
                raise Crash
            settle(bucket, world.feed, state, seen, snapshot_id=None, clock=world.clock)
        except Crash:
            world.feed.reader_died()
        rng.shuffle(world.feed.waiting)
        world.clock.advance(rng.randrange(200))
    world.clock.advance(POLICY.reconcile_every_seconds)
    assert world.is_true(world.run())
    world.put("a")
    last = world.run()
    assert last.why_full is None
    assert world.is_true(last)


def crashing(store: ObjectStore, at: int) -> Any:
    """The process dies at the so-manieth write, before or after it."""

    class Crashing:
        writes = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def put(self, *args: Any, **how: Any) -> Any:
            type(self).writes += 1
            if self.writes == at:
                raise Crash
            done = store.put(*args, **how)
            if self.writes + 1 == at and at == 3:
                raise Crash
            return done

    return Crashing()


@dataclass
class Inventory:
    """An inventory of what the source was when it was made."""

    made: Changes | None = None
    error: FeedError | None = None
    name: str = "inventory://"
    identity: str = "inventory://"

    def make(self, world: World) -> None:
        listing = list_table(world.source, "data/d/")
        self.made = Changes((), "1", complete=True, listing=listing, as_of=world.clock.now())

    def poll(self, cursor: str | None, limit: int) -> Changes:
        if self.error is not None:
            raise self.error
        return self.made or Changes((), "", complete=True)

    def renew(self, changes: Changes) -> None:
        pass

    def acknowledge(self, changes: Changes) -> None:
        pass


def test_an_inventory_stands_in_for_the_listing_where_it_is_newer(world: World) -> None:
    world.run()
    world.put("a", lost=True)
    world.delete("b", lost=True)
    world.clock.advance(POLICY.reconcile_every_seconds)
    inventory = Inventory()
    inventory.make(world)
    world.clock.advance(100)
    world.put("c")  # after the inventory
    seen = world.run(inventory=inventory)
    assert (world.listings, seen.why_full) == (1, None)
    assert world.is_true(seen)
    assert seen.report is not None
    assert seen.report.sample == ("data/d/a", "data/d/b")
    assert seen.last_full_at == inventory.made.as_of  # type: ignore[union-attr]
    world.clock.advance(POLICY.reconcile_every_seconds)
    assert world.run(inventory=inventory).why_full  # the same one again is of no use
    world.clock.advance(POLICY.reconcile_every_seconds)
    assert world.run(inventory=replace(inventory, error=FeedDamaged("torn"))).why_full


def test_an_inventory_as_the_feed_itself(world: World) -> None:
    inventory: Any = Inventory()
    world.feed = inventory
    who = {**WHO, "feed": inventory.name}
    world.run()
    saved = load_state(world.bucket, **who)
    assert saved.known is None  # recorded for another feed by this test's `run`
    state = load_state(world.bucket, **WHO)
    inventory.make(world)
    world.source.put("data/d/z", b"z")
    inventory.make(world)
    world.source.put("data/d/y", b"y")  # not in it
    seen = observe(inventory, state, source=world.source, folder="d", policy=POLICY, clock=world.clock)
    assert seen.why_full is None
    assert "data/d/z" in seen.listing["key"].to_pylist()


def test_a_source_that_is_away_ends_the_run(world: World) -> None:
    world.run()
    world.put("a")

    class Away:
        def __getattr__(self, name: str) -> Any:
            raise StoreUnavailable("away")

    world.source = Away()
    with pytest.raises(StoreUnavailable):
        world.observe()


CONNECTION = Connection(conn_id="c", conn_type="aws")


def site(cloud: Cloud, bucket: str = "b") -> Site:
    return Site(cloud=cloud, region="r", jurisdiction="EU", connection="c", bucket=bucket, prefix="p")


@pytest.mark.parametrize(
    ("uri", "cloud", "name"),
    [
        ("sqs://My-Queue_1", Cloud.AWS, None),
        ("sqs://123456789012/queue?wait_seconds=20&visibility_seconds=7200", Cloud.AWS, "sqs://123456789012/queue"),
        ("s3-inventory://reports/x/b/daily/", Cloud.AWS, "s3-inventory://reports/x/b/daily"),
        ("pubsub://projects/p/subscriptions/s?wait_seconds=1", Cloud.GCP, "pubsub://projects/p/subscriptions/s"),
        ("gcs-insights://reports/inventory_reports/id", Cloud.GCP, None),
        ("azure-changefeed://account/b", Cloud.AZURE, None),
        ("azure-queue://account/queue", Cloud.AZURE, None),
    ],
)
def test_a_uri_opens_its_feed(uri: str, cloud: Cloud, name: str | None) -> None:
    opened: list[str] = []

    def open_bucket(bucket: str) -> ObjectStore:
        opened.append(bucket)
        return memory_store()

    feed = open_feed(uri, CONNECTION, site_name="s", site=site(cloud), folder="d", open_bucket=open_bucket)
    assert feed.name == (name or uri)
    assert opened in ([], ["reports"], ["$blobchangefeed"])


@pytest.mark.parametrize(
    ("uri", "cloud"),
    [
        ("kafka://x", Cloud.AWS),
        ("queue", Cloud.AWS),
        ("sqs://", Cloud.AWS),
        ("sqs://queue", Cloud.GCP),
        ("sqs://queue?patience=1", Cloud.AWS),
        ("sqs://queue?wait_seconds=long", Cloud.AWS),
        ("pubsub://s", Cloud.GCP),
        ("azure-changefeed://account/other", Cloud.AZURE),
        ("azure-changefeed://account", Cloud.AZURE),
        ("azure-queue://account", Cloud.AZURE),
    ],
)
def test_a_uri_that_names_no_feed_is_bad_input(uri: str, cloud: Cloud) -> None:
    with pytest.raises(ConfigError):
        open_feed(uri, CONNECTION, site_name="s", site=site(cloud), folder="d")


def test_stores_of_reports_are_opened_with_the_sites_own_connection() -> None:
    opener: Callable[..., Any] = open_feed
    feed = opener("s3-inventory://reports/x", CONNECTION, site_name="aws", site=site(Cloud.AWS), folder="d")
    assert feed.name == "s3-inventory://reports/x"


def test_a_cursor_is_of_one_feed_of_one_folder_of_one_bucket() -> None:
    opened = [
        open_feed("sqs://q", CONNECTION, site_name="s", site=site(Cloud.AWS, bucket), folder=folder)
        for bucket in ("b", "c")
        for folder in ("d", "e")
    ]
    assert len({feed.identity for feed in opened}) == 4


def test_a_sync_that_knows_only_changes_gets_the_same_from_the_listing(world: World) -> None:
    before = world.run()
    assert before.as_changes() is None  # it lists by itself
    world.put("a")
    world.delete("b")
    seen = world.observe()
    changes = seen.as_changes()
    assert changes is not None
    told = apply_changes(before.listing, changes, as_listed(world.source), folder="data/d/")
    assert told.equals(seen.listing)


def test_the_clouds_libraries_are_not_imported_before_they_are_needed() -> None:
    code = (
        "import sys, holdfast.engine.replication.feeds.opening\n"
        "from holdfast.engine.replication.feeds import (azure_change_feed, azure_queue, gcs_insights,"
        " gcs_notifications, s3_events, s3_inventory)\n"
        "heavy = {'boto3', 'botocore', 'google.pubsub_v1', 'grpc', 'azure.storage', 'fastavro'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
