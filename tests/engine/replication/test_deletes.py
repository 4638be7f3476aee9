"""Deletes at a replica: off, late, limited, undoable; never of bytes that a snapshot still needs."""

from __future__ import annotations

from datetime import timedelta

import pytest

from holdfast.engine.config.sync import Deletes
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.replication.deletes import (
    DeletesNeedApproval,
    DeletesRefused,
    Keep,
    SourceState,
    mark,
    remove,
    undo,
)
from holdfast.engine.replication.tombstones import read_graveyard
from holdfast.engine.snapshot import BytesBeingRemoved, open_snapshot, rollback, selectable, verify
from holdfast.engine.snapshot.removals import SnapshotExpired, removals

DAY = 86400.0
POLICY = Deletes(enabled=True, delay_seconds=7 * DAY, most_objects=100, most_share=1.0)
GOOD = SourceState("aws", healthy=True, listing_complete=True)
NEWEST = Keep(newest=1)


def marked(world, policy=POLICY, source=GOOD, **kwargs):
    return mark(
        kwargs.pop("store", world.stores["gcp"]),
        "market",
        site="gcp",
        epoch=1,
        policy=policy,
        source=source,
        clock=world.clock,
        **kwargs,
    )


def removed(world, policy=POLICY, source=GOOD, **kwargs):
    return remove(
        kwargs.pop("store", world.stores["gcp"]),
        "market",
        site="gcp",
        epoch=1,
        policy=policy,
        source=source,
        clock=world.clock,
        **kwargs,
    )


def objects(world, site="gcp"):
    return {info.key.removeprefix("data/market/") for info in world.stores[site].list("data/market/")}


@pytest.fixture
def history(world):
    """At both sites: {a, b, c}, then `a` overwritten and `b` gone."""
    world.put("aws", a=b"one", b=b"two", c=b"three")
    world.first = world.publish()
    world.bring(world.first)
    world.put("aws", a=b"one, changed")
    world.drop("aws", "b")
    world.second = world.publish()
    world.bring(world.second)
    return world


def test_nothing_is_marked_or_removed_unless_the_policy_says_so(history):
    before = objects(history)
    assert marked(history, Deletes()) == []
    history.clock.advance(30 * DAY)
    assert removed(history, Deletes(), keep=NEWEST).removed_objects == 0
    assert objects(history) == before
    assert len(selectable(history.stores["gcp"], "market", epoch=1)) == 2


def test_what_left_the_source_is_marked_and_goes_when_its_delay_is_over_and_nobody_needs_it(history):
    (tombstone,) = marked(history)
    assert [(item.path, item.why) for item in tombstone.objects] == [("a", "superseded"), ("b", "left")]
    assert tombstone.remove_after - tombstone.marked_at == timedelta(days=7)
    assert marked(history) == []  # once is enough
    assert removed(history, keep=Keep(newest=2)).waiting_objects == 2
    history.clock.advance(7 * DAY + 1)
    kept = removed(history)
    assert (kept.removed_objects, kept.still_needed_objects) == (0, 2)  # the first snapshot still names them
    report = removed(history, keep=NEWEST)
    assert (report.removed_objects, report.removed_bytes) == (2, 6)
    assert report.expired_snapshots == (history.first.snapshot_id,)
    assert {path for path in objects(history) if ".versions" not in path} == {"c"}
    assert verify(history.stores["gcp"], history.second).ok
    assert selectable(history.stores["gcp"], "market", epoch=1) == [history.second]
    assert read_graveyard(history.stores["gcp"], "market").pending == ()
    assert removed(history, keep=NEWEST).removed_objects == 0


def test_more_than_the_limit_waits_for_a_person_who_approves_exactly_that(history):
    strict = Deletes(enabled=True, delay_seconds=0, most_objects=1, most_share=1.0)
    with pytest.raises(DeletesNeedApproval) as refused:
        marked(history, strict)
    assert f"--approve-deletes {refused.value.approval_id}" in str(refused.value)
    assert (refused.value.object_count, refused.value.total_objects) == (2, 3)
    assert read_graveyard(history.stores["gcp"], "market").pending == ()
    with pytest.raises(DeletesNeedApproval):
        marked(history, strict, approve="something else")
    (tombstone,) = marked(history, strict, approve=refused.value.approval_id)
    assert tombstone.approved == refused.value.approval_id
    by_share = Deletes(enabled=True, most_objects=100, most_share=0.1)
    history.drop("aws", "c")
    history.bring(history.publish())
    with pytest.raises(DeletesNeedApproval) as again:
        marked(history, by_share, approve=refused.value.approval_id)
    assert again.value.approval_id != refused.value.approval_id


@pytest.mark.parametrize(
    "source",
    [
        SourceState("aws", healthy=False, listing_complete=True),
        SourceState("aws", healthy=None, listing_complete=True),
        SourceState("aws", healthy=True, listing_complete=False),
        SourceState("aws", healthy=True, listing_complete=None),
    ],
)
def test_a_source_that_is_not_known_to_be_healthy_and_listed_whole_deletes_nothing(history, source):
    with pytest.raises(DeletesRefused):
        marked(history, source=source)
    marked(history)
    history.clock.advance(30 * DAY)
    before = objects(history)
    with pytest.raises(DeletesRefused):
        removed(history, source=source, keep=NEWEST)
    assert objects(history) == before
    assert len(selectable(history.stores["gcp"], "market", epoch=1)) == 2


def test_within_the_delay_it_can_be_undone_and_is_not_marked_again(history):
    (tombstone,) = marked(history)
    report = undo(history.stores["gcp"], "market", tombstone.id, clock=history.clock, reason="wrong load", paths=["b"])
    assert (report.kept, report.too_late) == (("b",), ())
    history.clock.advance(30 * DAY)
    assert removed(history, keep=NEWEST).removed_objects == 1
    assert "b" in objects(history)
    assert marked(history) == []
    with pytest.raises(DeletesRefused):
        undo(history.stores["gcp"], "market", "0" * 32, clock=history.clock, reason="x")


def test_an_undo_that_comes_too_late_says_so(history):
    (tombstone,) = marked(history)
    history.clock.advance(30 * DAY)

    class Slow(StoreDecorator):
        """A person undoes while the run is removing."""

        report = None

        def delete(self, key):
            if self.report is None and key.startswith("data/"):
                self.report = undo(self.inner, "market", tombstone.id, clock=history.clock, reason="oh")
            self.inner.delete(key)

    store = Slow(history.stores["gcp"])
    removed(history, keep=NEWEST, store=store)
    assert store.report.too_late == ("a", "b")


def test_what_a_later_snapshot_needs_again_begins_its_delay_anew(history):
    marked(history)
    history.clock.advance(6 * DAY)
    history.put("aws", b=b"two")  # back again: the replica's old object is found and used
    third = history.publish()
    assert history.bring(third).copied_objects == 0
    history.drop("aws", "b")
    history.bring(history.publish())
    history.clock.advance(2 * DAY)
    removed(history, keep=NEWEST)
    assert "b" in objects(history)
    marked(history)
    history.clock.advance(8 * DAY)
    removed(history, keep=NEWEST)
    assert "b" not in objects(history)


def test_what_somebody_put_into_the_folder_is_never_marked(history):
    history.stores["gcp"].put("data/market/notes.txt", b"mine")
    (tombstone,) = marked(history)
    assert "notes.txt" not in {item.path for item in tombstone.objects}


def test_where_writers_write_only_versions_are_looked_at(history):
    world = history
    rollback(
        world.stores,
        "market",
        to=world.first.snapshot_id,
        epoch=1,
        site="aws",
        clock=world.clock,
        reason="r",
    )
    world.publish()
    made = mark(
        world.stores["aws"], "market", site="aws", epoch=1, policy=POLICY, source=GOOD, clock=world.clock, live=True
    )
    assert made == []
    assert {path for path in objects(world, "aws") if ".versions" not in path} == {"a", "c"}


def test_an_object_overwritten_since_it_was_marked_stays(history):
    marked(history)
    history.stores["gcp"].put("data/market/b", b"a writer's")
    history.clock.advance(30 * DAY)
    assert removed(history, keep=NEWEST).removed_objects == 1
    assert history.stores["gcp"].get("data/market/b") == b"a writer's"


def test_an_expired_snapshot_is_not_published_there_again(history):
    marked(history)
    history.put("aws", a=b"one", b=b"two")
    history.bring(history.first, target="azure")
    history.clock.advance(30 * DAY)
    removed(history, keep=NEWEST)
    with pytest.raises(SnapshotExpired):
        history.bring(history.first, source="azure")


def test_removing_stops_when_the_guard_says_so_and_leaves_no_intent(history):
    marked(history)
    history.clock.advance(30 * DAY)

    def promoted():
        raise DeletesRefused("the site was promoted")

    before = objects(history)
    with pytest.raises(DeletesRefused):
        removed(history, keep=NEWEST, guard=promoted)
    assert objects(history) == before
    assert list(removals(history.stores["gcp"], "market")) == []


def test_a_run_that_died_at_any_operation_is_gone_on_with(world, mortal, killed):
    """At every operation, before and after it: no snapshot that may be selected loses a byte, and a rerun finishes."""
    for after in (False, True):
        for dies_at in range(200):
            here = _fresh(world)
            here.put("aws", a=b"one", b=b"two", c=b"three")
            here.bring(here.publish())
            here.put("aws", a=b"one, changed")
            here.drop("aws", "b")
            second = here.publish()
            here.bring(second)
            marked(here)
            here.clock.advance(30 * DAY)
            store = mortal(here.stores["gcp"], dies_at=dies_at, after=after)
            try:
                removed(here, keep=NEWEST, store=store)
            except killed:
                pass
            else:
                break
            for record in selectable(here.stores["gcp"], "market", epoch=1):
                if record == second or dies_at < 1:
                    assert verify(here.stores["gcp"], record).ok
            here.clock.advance(2 * 3600)
            removed(here, keep=NEWEST)
            assert {path for path in objects(here) if ".versions" not in path} == {"c"}
            assert verify(here.stores["gcp"], second).ok
            assert list(removals(here.stores["gcp"], "market")) == []
            assert read_graveyard(here.stores["gcp"], "market").pending == ()
        assert dies_at > 15


def _memory():
    from obstore.store import MemoryStore

    made = MemoryStore()
    return lambda _: made


class Between(StoreDecorator):
    """Runs something before the n-th operation."""

    def __init__(self, inner, at, what):
        super().__init__(inner)
        self.left, self.what, self.result = at, what, None

    def _step(self):
        self.left -= 1
        if self.left == -1:
            try:
                self.result = self.what()
            except (BytesBeingRemoved, SnapshotExpired) as refused:
                self.result = refused

    def list(self, prefix="", **kwargs):
        self._step()
        return iter(list(self.inner.list(prefix, **kwargs)))

    def get(self, key, **kwargs):
        self._step()
        return self.inner.get(key, **kwargs)

    def head(self, key):
        self._step()
        return self.inner.head(key)

    def put(self, key, data, **kwargs):
        self._step()
        return self.inner.put(key, data, **kwargs)

    def delete(self, key):
        self._step()
        self.inner.delete(key)


def _going(world):
    """A replica where `b` may be removed, and a newer snapshot at the source that has `b` again."""
    world.put("aws", a=b"one", b=b"two", c=b"three")
    world.bring(world.publish())
    world.drop("aws", "b")
    world.bring(world.publish())
    marked(world)
    world.clock.advance(30 * DAY)
    world.put("aws", b=b"two")
    return world.publish()


def _fresh(world):
    stores = {
        name: type(store)(name=name, prefix="", traits=store._traits, build=_memory(), timeouts=store._timeouts)
        for name, store in world.stores.items()
    }
    return type(world)(stores=stores, clock=type(world.clock)(), sites=world.sites)


def test_a_replication_at_any_moment_of_a_removal_is_whole_or_refused(world):
    outcomes = set()
    for at in range(200):
        here = _fresh(world)
        newest = _going(here)
        store = Between(here.stores["gcp"], at, lambda here=here, newest=newest: here.bring(newest))
        removed(here, keep=NEWEST, store=store)
        outcomes.add(type(store.result).__name__)
        for record in selectable(here.stores["gcp"], "market", epoch=1):
            assert verify(here.stores["gcp"], record).ok, at
        here.bring(newest)
        assert open_snapshot(here.stores["gcp"], newest).read("b") == b"two"
        if store.left >= 0:
            break
    assert outcomes >= {"BytesBeingRemoved", "ReplicationReport"}


def test_a_removal_at_any_moment_of_a_replication_never_hurts_what_it_commits(world):
    for at in range(200):
        here = _fresh(world)
        newest = _going(here)
        store = Between(here.stores["gcp"], at, lambda here=here: removed(here, keep=NEWEST))
        try:
            here.bring(newest, target_store=store, threads=1)
        except BytesBeingRemoved:
            here.bring(newest)
        for record in selectable(here.stores["gcp"], "market", epoch=1):
            assert verify(here.stores["gcp"], record).ok, at
        assert open_snapshot(here.stores["gcp"], newest).read("b") == b"two"
        if store.left >= 0:
            break
    assert at > 10


def test_two_removals_at_once_do_what_one_does(world):
    for at in range(200):
        here = _fresh(world)
        _going(here)
        store = Between(here.stores["gcp"], at, lambda here=here: removed(here, keep=NEWEST))
        removed(here, keep=NEWEST, store=store)
        assert {path for path in objects(here) if ".versions" not in path} == {"a", "c"}
        assert all(verify(here.stores["gcp"], r).ok for r in selectable(here.stores["gcp"], "market", epoch=1))
        if store.left >= 0:
            break


def test_a_store_that_does_not_answer_leaves_an_intent_until_it_is_stale(history):
    marked(history)
    history.clock.advance(30 * DAY)

    class Mute(StoreDecorator):
        def delete(self, key):
            if key == "data/market/b":
                raise StoreUnavailable("gone", outcome_unknown=True)
            self.inner.delete(key)

    with pytest.raises(StoreUnavailable):
        removed(history, keep=NEWEST, store=Mute(history.stores["gcp"]))
    assert len(list(removals(history.stores["gcp"], "market"))) == 1
    history.clock.advance(2 * 3600)
    assert removed(history, keep=NEWEST).removed_objects == 1
    assert list(removals(history.stores["gcp"], "market")) == []
