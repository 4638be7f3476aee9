"""Listings with every key exactly as it is, where obstore's say something else or nothing at all.

obstore's paths hold no empty segment, no ``.`` or ``..``, no control character and no slash at the end (measured, 0.8):
one such key ends its whole listing, and ``a/`` is shown as ``a``, which no object has. So

* a listing that ends at such a key goes on by requests of our own;
* a page with empty objects (folder markers are such), or out of order, is asked for again in that way;
* and so is one with a key that a pinned read did not find although ``<key>/`` is there.

Who lists sees these keys and decides: a sync skips the markers and refuses the others by name (`check_key`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.objectstore.interface import ObjectInfo
from holdfast.engine.objectstore.pages import LISTING, table_of

_MOST_SLASHED = 10_000


@runtime_checkable
class ExactLister(Protocol):
    """What can list a bucket without obstore: the parts of the clouds."""

    def listed(self, wanted: str, after: str | None) -> Iterator[Sequence[ObjectInfo]]:
        """Pages of the objects whose keys begin with ``wanted``, after one key; keys as in the bucket, in order."""


class Exact:
    """One store's knowledge of the keys that obstore shows as others. Safe to use from many threads.

    Args:
        lister: lists without obstore.
    """

    def __init__(self, lister: ExactLister) -> None:
        self._lister = lister
        self._lock = threading.Lock()
        self._slashed: set[str] = set()

    def missed(self, path: str) -> None:
        """A listed object was not found: perhaps its key ends with a slash."""
        page = next(iter(self._lister.listed(f"{path}/", None)), ())
        if page and page[0].key == f"{path}/":
            with self._lock:
                if len(self._slashed) < _MOST_SLASHED:
                    self._slashed.add(path)

    def listed(self, wanted: str, after: str | None, until: str | None = None) -> Iterator[pa.Table]:
        """Pages (schema `LISTING`, keys as in the bucket) of what lies after one key and up to another."""
        for page in self._lister.listed(wanted, after):
            rows = [info for info in page if until is None or info.key <= until]
            if rows:
                yield table_of(rows)
            if len(rows) < len(page):
                return

    def doubtful(self, page: pa.Table, last: str | None) -> bool:
        """Whether keys of a page of obstore's (not empty) may not be the objects' own.

        Args:
            page: its rows, keys as in the bucket.
            last: the key before it.
        """
        key = page["key"]
        if last is not None and key[0].as_py() <= last:
            return True
        if pc.any(pc.equal(page["size_bytes"], 0)).as_py():
            return True
        if len(key) > 1 and not pc.all(pc.less(key[:-1], key[1:])).as_py():
            return True
        with self._lock:
            slashed = list(self._slashed)
        return bool(slashed) and pc.any(pc.is_in(key, value_set=pa.array(slashed, LISTING.field("key").type))).as_py()


class Reading:
    """One listing of obstore's, made exact page by page.

    Args:
        exact: the store's.
        wanted: what the keys begin with, as in the bucket.
        after: the key it begins after.
    """

    def __init__(self, exact: Exact, wanted: str, after: str | None) -> None:
        self._exact, self._wanted, self._after, self._last = exact, wanted, after, after
        #: Keys given out already that the next pages may show again.
        self._ahead: list[str] = []

    def page(self, page: pa.Table) -> Iterator[pa.Table]:
        """A page's objects as they are. It may hold keys that come before what was asked for."""
        page = self._still_wanted(page)
        if not page.num_rows:
            return
        self._ahead = []
        shown = page["key"][-1].as_py()
        if not self._exact.doubtful(page, self._last):
            self._last = shown
            yield page
            return
        # The last of them is what is shown, or that with a slash, before which `a-b` and `a.b` stand: those the next
        # page shows again.
        for rows in self._exact.listed(self._wanted, self._last, f"{shown}/"):
            self._last = rows["key"][-1].as_py()
            self._ahead += [key.rstrip("/") for key in rows["key"].to_pylist() if key > shown]
            yield rows

    def _still_wanted(self, page: pa.Table) -> pa.Table:
        key = page["key"]
        if self._after is not None:
            at_most = pc.binary_join_element_wise(key, pa.scalar("", key.type), pa.scalar("/", key.type))
            page = page.filter(pc.greater(at_most, pa.scalar(self._after, key.type)))
        if self._ahead:
            page = page.filter(pc.invert(pc.is_in(page["key"], value_set=pa.array(self._ahead, key.type))))
        return page

    def rest(self) -> Iterator[pa.Table]:
        """What comes after the pages so far, without obstore."""
        return self._exact.listed(self._wanted, self._last)
