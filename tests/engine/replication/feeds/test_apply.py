"""A listing from hints: whatever a feed loses, doubles or delays, feed and full listing together give the truth."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.clock import FakeClock
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import ObjectInfo, ObjectStore, ObjectVersion, memory_store
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.replication.feeds import (
    Change,
    Changes,
    Rejected,
    apply_changes,
    as_listed,
    collapse,
    compare,
    due_for_reconcile,
    listing_of,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = ("data/d/a", "data/d/a/b", "data/d/a-b", "data/d/é", "data/d/z")


@dataclass
class Source:
    """A bucket that says what happened to it, each event once, with a sequence per write."""

    objects: dict[str, ObjectInfo] = field(default_factory=dict)
    events: list[Change] = field(default_factory=list)

    def put(self, key: str, size_bytes: int) -> None:
        number = len(self.events) + 1
        at = START + timedelta(seconds=number)
        self.objects[key] = ObjectInfo(key, size_bytes, at, ObjectVersion(f'"{number}"'))
        self.events.append(Change(key, "put", None, str(number), size_bytes, at, f"{number:08d}"))

    def delete(self, key: str) -> None:
        number = len(self.events) + 1
        self.objects.pop(key, None)
        at = START + timedelta(seconds=number)
        self.events.append(Change(key, "delete", None, None, None, at, f"{number:08d}"))

    def head(self, key: str) -> ObjectInfo | None:
        return self.objects.get(key)

    def listing(self) -> pa.Table:
        return listing_of(self.objects.values())


_WRITES = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(["put", "put", "delete"]), st.integers(0, 3)))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[tuple[str, str, int]]], st.DataObject]:
    return draw(st.lists(_WRITES, max_size=5)), draw(st.data())


def write(source: Source, writes: list[tuple[str, str, int]]) -> None:
    for key, kind, size in writes:
        if kind == "put":
            source.put(key, size)
        else:
            source.delete(key)


@settings(deadline=None, max_examples=80)
@given(histories())
def test_doubled_delayed_and_shuffled_events_give_the_truth_once_the_last_came(
    history: tuple[list[list[tuple[str, str, int]]], st.DataObject],
) -> None:
    rounds, data = history
    source, known, waiting = Source(), listing_of([]), []
    sent = 0
    for writes in rounds:
        write(source, writes)
        waiting += source.events[sent:]
        sent = len(source.events)
        waiting = data.draw(st.permutations(waiting))
        now = data.draw(st.integers(0, len(waiting)))
        came, waiting = waiting[:now], waiting[now:]
        again = data.draw(st.lists(st.sampled_from(came), max_size=3)) if came else []
        known = apply_changes(known, [*came, *again], source.head, threads=2)
    known = apply_changes(known, waiting, source.head, threads=2)
    assert known.equals(source.listing())


@settings(deadline=None, max_examples=80)
@given(histories())
def test_a_full_listing_finds_what_lost_events_hid_and_names_it(
    history: tuple[list[list[tuple[str, str, int]]], st.DataObject],
) -> None:
    rounds, data = history
    source, known, sent = Source(), listing_of([]), 0
    for writes in rounds:
        write(source, writes)
        new = source.events[sent:]
        sent = len(source.events)
        came = data.draw(st.lists(st.sampled_from(new))) if new else []
        known = apply_changes(known, came, source.head, threads=2)
    truth = source.listing()
    report = compare(known, Changes((), "", complete=True), truth)
    wrong = {*rows(known).items()} ^ {*rows(truth).items()}
    assert set(report.sample) == {key for key, _ in wrong}
    assert (report.missed, report.said) == (len(report.sample), 0)
    full = Changes((), "", complete=True, listing=truth)
    assert apply_changes(known, full, source.head, threads=2).equals(truth)


@settings(deadline=None, max_examples=50)
@given(histories())
def test_an_old_inventory_never_brings_back_what_is_gone(
    history: tuple[list[list[tuple[str, str, int]]], st.DataObject],
) -> None:
    """An inventory is hours old: it names keys to look at, and what it says of them is not believed."""
    rounds, data = history
    source, listings = Source(), [listing_of([])]
    for writes in rounds:
        write(source, writes)
        listings.append(source.listing())
    known = listings[-1]  # all events came
    old = Changes((), "", complete=True, listing=data.draw(st.sampled_from(listings)))
    assert apply_changes(known, old, source.head, threads=2).equals(source.listing())


def rows(table: pa.Table) -> dict[str, tuple[object, ...]]:
    return {row["key"]: tuple(row.values()) for row in table.to_pylist()}


def test_only_the_named_keys_are_asked_for() -> None:
    source = Source()
    for number in range(1000):
        source.put(f"data/d/{number:04d}", number)
    known = source.listing()
    source.put("data/d/0500", 1)
    source.delete("data/d/0001")
    asked = []

    def head(key: str) -> ObjectInfo | None:
        asked.append(key)
        return source.head(key)

    assert apply_changes(known, source.events[1000:] * 3, head).equals(source.listing())
    assert sorted(asked) == ["data/d/0001", "data/d/0500"]


def test_a_key_that_cannot_be_asked_for_stops_it() -> None:
    def head(key: str) -> ObjectInfo | None:
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        apply_changes(listing_of([]), [Change("k", "delete", None, None, None, START, "1")], head)


def test_as_listed_gives_a_listings_own_facts() -> None:
    store: ObjectStore = memory_store()
    for key in ("a/b", "a/b/c", "a/bc"):
        store.put(key, key.encode())
    head = as_listed(store)
    listed = {info.key: info for info in store.list()}
    assert {key: head(key) for key in listed} == listed
    assert head("a/") is None
    assert head("a") is None
    changes = [Change(key, "put", None, None, None, START, "1") for key in ("a/b", "a", "a/bc", "a/b/c")]
    assert apply_changes(listing_of([]), changes, head).equals(listing_of(listed.values()))


def test_the_newest_event_of_a_key_is_left() -> None:
    def change(key: str, sequence: str, kind: str = "put") -> Change:
        return Change(key, kind, None, None, None, START, sequence)  # type: ignore[arg-type]

    for order in itertools.permutations(
        [change("a", "1"), change("a", "3", "delete"), change("a", "2"), change("b", "0")]
    ):
        assert collapse(order) == (change("a", "3", "delete"), change("b", "0"))


def test_when_a_full_listing_is_due() -> None:
    now = FakeClock().now()
    policy = Sync(reconcile_every_seconds=100)
    assert due_for_reconcile(None, now, policy)
    assert due_for_reconcile(now - timedelta(seconds=99), now, policy) is None
    assert due_for_reconcile(now - timedelta(seconds=100), now, policy)
    assert due_for_reconcile(now + timedelta(seconds=1), now, policy)
    last = now - timedelta(seconds=50)
    covered = Rejected("m", "no JSON", at=last - timedelta(seconds=1))
    assert due_for_reconcile(last, now, policy, rejected=[covered]) is None
    assert due_for_reconcile(last, now, policy, rejected=[covered, Rejected("n", "no JSON", at=now)])
