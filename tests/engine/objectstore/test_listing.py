"""A listing as a table is the iterator's listing, whatever the keys, the threads and the faults."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import RetryingStore, RetryPolicy, local_store, memory_store
from holdfast.engine.objectstore import listing as listing_module
from holdfast.engine.objectstore import pages as pages_module
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.objectstore.faults import Chance, FaultyStore, Kind
from holdfast.engine.objectstore.listing import LISTING, list_table, split_point
from holdfast.engine.objectstore.meter import Meter, MeteredStore
from holdfast.engine.objectstore.pages import Split, listing_split, table_of
from holdfast.engine.objectstore.throttle import ThrottledStore

SEGMENT = st.text(st.sampled_from("ab01-_.zZ ~%{üéー😀"), min_size=1, max_size=4).filter(
    lambda text: text not in (".", "..") and text.strip() == text
)
KEY = st.lists(SEGMENT, min_size=1, max_size=3).map("/".join)
KEYS = st.lists(KEY, max_size=60, unique=True)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    """Pages of three, so that small listings have many."""
    for module in (listing_module, pages_module):
        monkeypatch.setattr(module, "PAGE_OBJECTS", 3)
    monkeypatch.setattr("holdfast.engine.objectstore._obstore.PAGE_OBJECTS", 3)


def filled(keys, prefix="site"):
    store = memory_store(prefix=prefix)
    for number, key in enumerate(keys):
        store.put(key, b"x" * (number % 7))
    return store


class Folders(StoreDecorator):
    """A store whose server knows no place to begin at."""

    def listing_split(self):
        return Split.FOLDERS


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=KEYS,
    prefix=st.sampled_from(["", "a", "a/", "0", "ü", "b/a"]),
    after=st.none() | KEY,
    threads=st.sampled_from([1, 2, 5]),
    wrap=st.sampled_from([lambda store: store, Folders]),
)
def test_a_table_holds_what_the_iterator_yields_in_its_order(keys, prefix, after, threads, wrap):
    store = wrap(filled(keys))
    table = list_table(store, prefix, threads=threads, start_after=after)
    assert table.schema.equals(LISTING)
    assert table.to_pylist() == table_of(store.list(prefix, start_after=after)).to_pylist()
