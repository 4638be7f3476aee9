"""The durable cursor: what a crash or a second run leaves is duplicates, never a loss."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.objectstore import ObjectInfo, ObjectStore, ObjectVersion, RetryPolicy, local_store, memory_store
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.objectstore.retry import RetryingStore
from holdfast.engine.replication.feeds import FeedState, FeedStateConflict, listing_of, load_state, save_state
from holdfast.engine.replication.feeds.cursor import cursor_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WHO: dict[str, Any] = {"dataset": "d", "site": "aws", "feed": "sqs://q"}


def listing(*sizes: int) -> Any:
    return listing_of(ObjectInfo(f"k{i}", size, NOW, ObjectVersion(f'"{i}"')) for i, size in enumerate(sizes))


def save(store: ObjectStore, state: FeedState, cursor: str, *sizes: int, full_at: datetime = NOW) -> FeedState:
    return save_state(
        store, state, cursor=cursor, listing=listing(*sizes), snapshot_id="0" * 32, last_full_at=full_at, now=NOW
    )


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return memory_store() if request.param == "memory" else local_store("local", tmp_path)


def test_what_was_saved_is_loaded(store: ObjectStore) -> None:
    state = load_state(store, **WHO)
    assert (state.known, state.why_full) == (None, "no cursor yet")
    for number in range(3):
        saved = save(store, state, str(number), *range(number), full_at=NOW + timedelta(seconds=number))
        state = load_state(store, **WHO)
        assert (state.cursor, state.last_full_at, state.why_full) == (
            str(number),
            NOW + timedelta(seconds=number),
            None,
        )
        assert state.known.equals(listing(*range(number)))
        assert saved.record == state.record
    assert len([*store.list("feeds/")]) == 2  # older listings are removed


def test_a_feed_of_another_uri_starts_anew(store: ObjectStore) -> None:
    save(store, load_state(store, **WHO), "7")
    state = load_state(store, **{**WHO, "feed": "sqs://other"})
    assert state.cursor is None
    assert "another feed" in str(state.why_full)
    save(store, state, "8")  # and replaces the record


@pytest.mark.parametrize("damage", ["cursor", "listing", "listing gone"])
def test_damage_leads_to_a_full_listing(store: ObjectStore, damage: str) -> None:
    record = save(store, load_state(store, **WHO), "7", 1, 2).record
    assert record is not None
    if damage == "cursor":
        store.put(cursor_key("d", "aws"), b'{"format": "something"}')
    elif damage == "listing":
        store.put(record.listing_key, store.get(record.listing_key)[:-1])
    else:
        store.delete(record.listing_key)
    state = load_state(store, **WHO)
    assert (state.known, state.cursor) == (None, None)
    assert state.why_full
    save(store, state, "8")
    assert load_state(store, **WHO).cursor == "8"


def test_of_two_runs_at_once_one_is_told_not_to_acknowledge() -> None:
    store = memory_store()
    for _ in range(2):  # for the first cursor and for a later one
        one, other = load_state(store, **WHO), load_state(store, **WHO)
        save(store, one, "one", 1)
        with pytest.raises(FeedStateConflict):
            save(store, other, "other", 2)
        assert load_state(store, **WHO).cursor == "one"


class LosesTheAnswer:
    """The cursor is written and the answer never comes."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put(self, key: str, data: Any, **how: Any) -> ObjectVersion:
        version = self._inner.put(key, data, **how)
        if key.endswith(".json"):
            raise StoreUnavailable("lost", outcome_unknown=True)
        return version


@pytest.mark.parametrize("retried", [False, True])
def test_a_lost_answer_is_not_taken_for_another_run(retried: bool) -> None:
    store: Any = LosesTheAnswer(memory_store())
    if retried:
        store = RetryingStore(store, RetryPolicy(attempts=2, first_delay_seconds=0.001))
    save(store, save(store, load_state(store, **WHO), "1"), "2")
    assert load_state(store, **WHO).cursor == "2"


class Crash(BaseException):
    pass


def test_a_crash_at_any_write_leaves_one_whole_record() -> None:
    for at in range(1, 5):
        inner = memory_store()
        state = save(inner, load_state(inner, **WHO), "old", 1)
        writes = 0

        class Crashing(LosesTheAnswer):
            crash_at = at

            def _count(self) -> None:
                nonlocal writes
                writes += 1
                if writes == self.crash_at:
                    raise Crash

            def put(self, key: str, data: Any, **how: Any) -> ObjectVersion:
                self._count()
                return self._inner.put(key, data, **how)

            def delete(self, key: str) -> None:
                self._count()
                self._inner.delete(key)

        crashing: Any = Crashing(inner)
        try:
            save(crashing, state, "new", 2)
        except Crash:
            pass
        else:
            assert at == 4
        found = load_state(inner, **WHO)
        expected = ("old", listing(1)) if at <= 2 else ("new", listing(2))
        assert found.cursor == expected[0]
        assert found.known.equals(expected[1])
