"""A listing as a table, on every backend: what `ObjectStore.list` yields, in its order."""

from __future__ import annotations

import pytest

from holdfast.engine.objectstore import listing, pages
from holdfast.engine.objectstore.listing import list_table
from holdfast.engine.objectstore.pages import table_of

KEYS = [
    *(f"folder/date=2026-01-{day:02d}/part-{part}" for day in range(1, 7) for part in range(4)),
    *("b", "folder-1", "folder.", "folder/a b", "folder/ü", "folder/ー/x", "folder/%41", "folder/a+b=c&d", "folder/😀"),
]


@pytest.fixture
def small_pages(monkeypatch):
    for module in (listing, pages):
        monkeypatch.setattr(module, "PAGE_OBJECTS", 3)
    monkeypatch.setattr("holdfast.engine.objectstore._listings.PAGE_OBJECTS", 3)


def test_a_table_is_the_iterator_s_listing(store, small_pages):
    for number, key in enumerate(KEYS):
        store.put(key, b"x" * number)
    for prefix in ("", "folder", "folder/", "folder/date=2026-01-0", "nothing/"):
        for after in (None, "folder/date=2026-01-02/part-1", "folder/zzz", "folder/date=2026-01-03/"):
            expected = table_of(store.list(prefix, start_after=after)).to_pylist()
            for threads in (1, 4):
                assert list_table(store, prefix, threads=threads, start_after=after).to_pylist() == expected
