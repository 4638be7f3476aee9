"""A listing as a table is the iterator's listing, whatever the keys, the threads and the faults."""

from __future__ import annotations

import random
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import RetryingStore, RetryPolicy, local_store, memory_store
from holdfast.engine.objectstore import listing as listing_module
from holdfast.engine.objectstore import pages as pages_module
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import InvalidKey, StoreUnavailable
from holdfast.engine.objectstore.faults import Chance, Fault, FaultyStore, Kind, Script
from holdfast.engine.objectstore.interface import ObjectInfo
from holdfast.engine.objectstore.listing import LISTING, list_table, split_point
from holdfast.engine.objectstore.meter import Meter, MeteredStore
from holdfast.engine.objectstore.pages import Split, list_pages, listing_split, table_of
from holdfast.engine.objectstore.throttle import ThrottledStore

SEGMENT = st.text(st.sampled_from("ab01-_.zZ ~%{üéー😀"), min_size=1, max_size=4).filter(
    lambda text: text not in (".", "..") and text.strip() == text
)
KEY = st.lists(SEGMENT, min_size=1, max_size=3).map("/".join)
KEYS = st.lists(KEY, max_size=60, unique=True)


@pytest.fixture
def small_pages(monkeypatch):
    """Pages of three, so that small listings have many."""
    for module in (listing_module, pages_module):
        monkeypatch.setattr(module, "PAGE_OBJECTS", 3)
    monkeypatch.setattr("holdfast.engine.objectstore._listings.PAGE_OBJECTS", 3)


def filled(keys, prefix="site"):
    store = memory_store(prefix=prefix)
    for number, key in enumerate(keys):
        store.put(key, b"x" * (number % 7))
    return store


class Folders(StoreDecorator):
    """A store whose server knows no place to begin at."""

    def listing_split(self):
        return Split.FOLDERS


class Counted(StoreDecorator):
    """Counts the listings begun and the pages they took."""

    def __init__(self, inner):
        super().__init__(inner)
        self.begun = self.pages = 0
        self.threads = set()
        self._lock = threading.Lock()

    def list_pages(self, prefix="", *, start_after=None, shallow=False):
        with self._lock:
            self.begun += 1
            self.threads.add(threading.get_ident())
        for page in list_pages(self.inner, prefix, start_after=start_after, shallow=shallow):
            with self._lock:
                self.pages += 1
            yield page


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=KEYS,
    prefix=st.sampled_from(["", "a", "a/", "0", "ü", "b/a"]),
    after=st.none() | KEY,
    threads=st.sampled_from([1, 2, 5]),
    wrap=st.sampled_from([lambda store: store, Folders]),
    root=st.sampled_from(["", "site", "ü/x"]),
)
def test_a_table_holds_what_the_iterator_yields_in_its_order(small_pages, keys, prefix, after, threads, wrap, root):
    store = wrap(filled(keys, root))
    table = list_table(store, prefix, threads=threads, start_after=after)
    assert table.schema.equals(LISTING)
    assert table.to_pylist() == table_of(store.list(prefix, start_after=after)).to_pylist()


@pytest.mark.parametrize(
    "keys",
    [
        [f"part-{number:06d}" for number in range(3000)],
        [f"date=2026-{month:02d}/part-{part:04d}.parquet" for month in range(1, 13) for part in range(250)],
        [f"{random.Random(number).getrandbits(64):016x}" for number in range(3000)],
        [f"very/deep/and/lonely/folder/of/one/{number}" for number in range(3000)],
        [f"ünïcode/{number:05d}ß" for number in range(3000)],
    ],
    ids=["counted", "by-date", "hashed", "deep", "unicode"],
)
def test_ranges_are_found_whatever_the_keys_are_like(keys, small_pages):
    store = Counted(filled(keys))
    table = list_table(store, threads=8)
    assert table["key"].to_pylist() == sorted(keys)
    assert store.begun > 8
    assert store.pages <= 2 * (len(keys) // 3 + 1) + 8  # at most one split for each full page


def test_a_small_listing_is_one_request():
    store = Counted(filled([f"{number}" for number in range(500)]))
    assert list_table(store, threads=8).num_rows == 500
    assert (store.begun, store.pages) == (1, 1)


def test_a_split_lies_after_the_page_and_before_the_end():
    rng = random.Random(5)
    for _ in range(500):
        first, last = sorted("".join(rng.choices("ab/09zZ~ü", k=rng.randint(1, 8))) for _ in range(2))
        end = rng.choice([None, last + rng.choice("0az")])
        middle = split_point("p/" + first, "p/" + last, end and "p/" + end, floor=2)
        assert middle is None or ("p/" + last < middle and (end is None or middle < "p/" + end))


def test_too_many_folders_are_listed_in_one(small_pages, monkeypatch):
    monkeypatch.setattr(listing_module, "MOST_FOLDERS", 5)
    store = Counted(filled([f"top/{number:02d}/x" for number in range(20)]))
    assert list_table(Folders(store), "top/", threads=4).num_rows == 20
    assert store.begun == 2  # one look, one listing


def test_a_folder_alone_in_its_folder_is_gone_into(small_pages):
    store = Counted(filled([f"a/b/c/{number % 4}/{number}" for number in range(40)] + ["a/b/file"]))
    table = list_table(Folders(store), "a/", threads=4)
    assert table["key"].to_pylist() == [info.key for info in store.list("a/")]
    assert store.begun == 3 + 4


def test_a_local_folder_is_listed_in_order(tmp_path):
    store = local_store("local", tmp_path)
    for key in ("b", "a-", "a/1", "a/10", "a/2", "ü"):
        store.put(key, key.encode())
    assert listing_split(store) is Split.NOTHING
    assert list_table(store).to_pylist() == table_of(store.list()).to_pylist()
    assert list_table(store, "nothing/").num_rows == 0


# -- decorators --------------------------------------------------------------------------------------------------------


def test_pages_that_do_not_come_are_asked_for_again(small_pages):
    keys = [f"{number:03d}" for number in range(200)]
    chance = Chance(random.Random(3), {Kind.FAIL_BEFORE: 0.2, Kind.FAIL_AFTER: 0.2})
    policy = RetryPolicy(attempts=30, budget_seconds=60, first_delay_seconds=0.001, longest_delay_seconds=0.001)
    store = RetryingStore(FaultyStore(filled(keys), chance), policy)
    for threads in (1, 4):
        assert list_table(store, threads=threads)["key"].to_pylist() == keys
    assert list_table(Folders(store), threads=4)["key"].to_pylist() == keys


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("wrap", [lambda store: store, Folders])
def test_a_listing_is_whole_or_an_error(small_pages, threads, wrap):
    keys = [f"{number % 5}/{number:03d}" for number in range(200)]
    store = wrap(FaultyStore(filled(keys), Script([Fault(Kind.FAIL_AFTER, "list")])))
    with pytest.raises(StoreUnavailable):
        list_table(store, threads=threads)


def test_each_page_costs_a_request_of_the_throttle():
    keys = [f"{number:04d}" for number in range(2500)]
    clock = FakeClock()
    store = ThrottledStore(filled(keys), requests_per_second=1, clock=clock)
    began = clock.monotonic()
    assert list_table(store, threads=1).num_rows == 2500
    assert clock.monotonic() - began == pytest.approx(2)  # three pages; one was saved up


def test_listings_are_metered():
    meter = Meter()
    list_table(MeteredStore(filled(["a"]), meter))
    assert meter.counts()["list"].calls == 1


def test_a_decorator_that_changes_listings_is_not_passed_by():
    class Renamed(StoreDecorator):
        def list(self, prefix="", *, start_after=None):
            for info in self.inner.list(prefix, start_after=start_after):
                yield ObjectInfo(f"new/{info.key}", info.size_bytes, info.modified_at, info.version)

    store = MeteredStore(Renamed(filled(["a", "b"])), Meter())
    assert listing_split(store) is Split.NOTHING
    assert list_table(store)["key"].to_pylist() == ["new/a", "new/b"]


def test_a_store_without_pages_is_listed_by_its_iterator():
    class Plain:
        def __init__(self, inner):
            self.name, self.list = inner.name, inner.list

    inner = filled(["a", "b/c"])
    assert list_table(Plain(inner)).to_pylist() == list_table(inner).to_pylist()


def test_a_key_that_stops_a_listing_is_named(tmp_path):
    (tmp_path / "a\x01b").write_bytes(b"x")
    store = local_store("local", tmp_path)
    for listed in (lambda: list_table(store), lambda: list(store.list())):
        with pytest.raises(InvalidKey, match=r"a\\x01b.*Rename or remove"):
            listed()
