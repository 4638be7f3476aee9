"""Of publishers that follow the same snapshot one becomes the line, and no other does without saying so."""

from __future__ import annotations

import itertools

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import memory_store
from holdfast.engine.snapshot import latest, publish, records, rollback, take
from holdfast.engine.snapshot.errors import LineSplit, Superseded
from holdfast.engine.snapshot.succession import HOLD_SECONDS, successor_key
from sync_harms import Harm, HarmedStore, Kill, Killed, Trace


class Meanwhile(Harm):
    """Something else happens whole, before the operation of that number, or before the commit record is written."""

    def __init__(self, at, what):
        self.at, self.what = at, what

    def before(self, op):
        commits = op.verb == "put" and op.key.endswith(".json") and op.key.count("/") == 2
        if (commits if self.at == "commit" else op.index == self.at) and self.what is not None:
            what, self.what = self.what, None
            what()


class Place:
    def __init__(self):
        self.store, self.clock = memory_store("aws"), FakeClock()
        self.store.put("data/market/a", b"1")
        self.first = self.publish(None)

    def publish(self, parent, *harms):
        self.clock.advance(1)
        store = HarmedStore(self.store, "aws", Trace(list(harms)))
        taken = take(self.store, dataset="market", path="market", clock=self.clock)
        return publish(store, taken, epoch=1, site="aws", parent=parent, clock=self.clock)

    def tries(self, parent, *harms):
        """The record, or why there is none."""
        try:
            return self.publish(parent, *harms)
        except (Superseded, LineSplit, Killed) as error:
            return error

    def newest(self):
        return latest(self.store, "market", epoch=1)

    def operations(self):
        trace = Trace()
        other = Place()
        taken = take(other.store, dataset="market", path="market", clock=other.clock)
        publish(
            HarmedStore(other.store, "aws", trace), taken, epoch=1, site="aws", parent=other.first.snapshot_id,
            clock=other.clock,
        )  # fmt: skip
        return len(trace.ops)


def test_nothing_is_published_on_top_of_what_is_not_the_newest():
    place = Place()
    second = place.publish(place.first.snapshot_id)
    with pytest.raises(Superseded, match=second.snapshot_id):
        place.publish(place.first.snapshot_id)
    assert len(records(place.store, "market")) == 2


def test_of_two_that_follow_the_same_snapshot_one_is_the_line_wherever_they_meet():
    for at in range(Place().operations()):
        place, inner = Place(), []
        parent = place.first.snapshot_id
        outer = place.tries(parent, Meanwhile(at, lambda p=place, i=inner: i.append(p.tries(p.first.snapshot_id))))
        good = [one for one in (outer, *inner) if not isinstance(one, BaseException)]
        assert len(good) == 1, (at, outer, inner)
        if not any(isinstance(one, LineSplit) for one in (outer, *inner)):
            assert place.newest() == good[0], at
            assert len(records(place.store, "market")) == 2, at


def test_a_publisher_that_died_anywhere_blocks_nobody():
    for at, after in itertools.product(range(Place().operations()), (False, True)):
        place = Place()
        dead = place.tries(place.first.snapshot_id, Kill(at, after))
        assert isinstance(dead, Killed) or at == place.operations() - 1
        newest = place.newest()
        follows = place.publish(newest.snapshot_id)
        assert place.newest() == follows, at


def test_a_publisher_that_was_only_slow_never_becomes_the_newest_and_is_told():
    place = Place()
    parent = place.first.snapshot_id
    faster = []

    def overtake():
        before = place.clock.monotonic()
        faster.append(place.publish(parent))
        assert place.clock.monotonic() - before >= HOLD_SECONDS, "a mark holds others off"

    with pytest.raises(LineSplit, match=parent):
        place.publish(parent, Meanwhile("commit", overtake))
    assert len(records(place.store, "market")) == 3, "the slow one was about to commit"
    assert place.newest() == faster[0]


def test_a_clock_that_is_behind_does_not_put_the_faster_one_below_the_slow_one():
    place = Place()
    parent, faster = place.first.snapshot_id, []
    mark = successor_key("market", 1, parent, 1)

    def overtake():
        assert any(info.key == mark for info in place.store.list(mark))
        slow, place.clock = place.clock, FakeClock()  # a year or a second behind: its own beginning
        faster.append(place.publish(parent))
        place.clock = slow

    place.clock.advance(1000)
    with pytest.raises(LineSplit):
        place.publish(parent, Meanwhile("commit", overtake))
    assert place.newest() == faster[0]


def test_a_rollback_goes_by_the_same_rule():
    ended = set()
    for at in itertools.count():
        place = Place()
        place.store.put("data/market/b", b"2")
        second = place.publish(place.first.snapshot_id)
        other = []
        harm = Meanwhile(at, lambda p=place, s=second, o=other: o.append(p.tries(s.snapshot_id)))
        try:
            record = rollback(
                {"aws": HarmedStore(place.store, "aws", Trace([harm]))}, "market", to=place.first.snapshot_id, epoch=1,
                site="aws", clock=place.clock, reason="test",
            )  # fmt: skip
        except (Superseded, LineSplit) as error:
            ended.add(type(error))
            assert not isinstance(other[0], BaseException), at
            assert place.newest() == other[0], at
        else:
            if not other:
                break
            assert place.newest() == record, at
            assert isinstance(other[0], BaseException) or other[0].snapshot_id == record.parent, at
    assert ended >= {Superseded}
