"""A whole listing as one Arrow table, made by many requests at once where the store allows it.

A key range is split while it is listed. After each full page of a range, while threads are free, the worker names a
key beyond the page, keeps what lies up to it and gives the rest away. Where to split is learned from the keys seen: one
character of the last key is raised, at a place between the requested prefix and where the page's own keys differ; when
nothing lies beyond, that key bounds the next choice. Any split is correct, a good one is only fast: the ranges are
half open, adjoin, and cover everything whatever the keys are.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.pages import LISTING, PAGE_OBJECTS, Page, Split, gather, list_pages, listing_split

__all__ = ["LISTING", "list_table"]

#: With more folders than this below one, their own requests may cost more than they save.
MOST_FOLDERS = 256
_FEW_PLACES = 8
#: Characters a split key may end in: every store takes them at the end of a key.
_STEPS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"


def list_table(store: ObjectStore, prefix: str = "", *, threads: int = 8, start_after: str | None = None) -> pa.Table:
    """Everything ``store.list`` would yield, in the same order, as a table of schema `LISTING`.

    Args:
        prefix: a plain string, as for ``store.list``.
        threads: requests at once; 1 lists one page after the other.
        start_after: only keys after this one, itself excluded.

    Raises:
        StoreUnavailable: a page did not come. A listing is whole or an error.
    """
    split = listing_split(store) if threads > 1 else Split.NOTHING
    if split is Split.RANGES:
        return _RangedListing(store, prefix, threads).run(start_after)
    if split is Split.FOLDERS:
        return _by_folders(store, prefix, start_after, threads)
    return _pages(list_pages(store, prefix, start_after=start_after))


def _pages(pages: Iterable[Page]) -> pa.Table:
    return gather(page.objects for page in pages)


@dataclass
class _Range:
    """Keys after ``start`` up to and including ``end``, which a split lowers."""

    start: str | None
    end: str | None
    pages: list[pa.Table] = field(default_factory=list)


class _RangedListing:
    def __init__(self, store: ObjectStore, prefix: str, threads: int) -> None:
        self._store, self._prefix, self._threads = store, prefix, threads
        self._lock = threading.Lock()
        self._ranges: list[_Range] = []
        self._active = 0
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="holdfast-list")

    def run(self, start_after: str | None) -> pa.Table:
        with self._pool:
            try:
                self._begin(_Range(start_after, None))
                self._ended.wait()
            finally:
                self._ended.set()  # interrupted: whoever still lists stops after its page
        if self._error is not None:
            raise self._error
        parts = sorted(self._ranges, key=lambda part: part.start or "")
        return gather(page for part in parts for page in part.pages)

    def _begin(self, part: _Range) -> None:
        """Have a range listed; the lock is held, or nobody else is there yet."""
        self._ranges.append(part)
        self._active += 1
        self._pool.submit(self._list, part)

    def _list(self, part: _Range) -> None:
        error: BaseException | None = None
        try:
            for page in list_pages(self._store, self._prefix, start_after=part.start):
                if page.objects.num_rows and self._take(part, page.objects):
                    break
        except BaseException as caught:  # it is raised in the thread that asked for the listing
            error = caught
        with self._lock:
            self._active -= 1
            self._error = self._error or error
            if not self._active or self._error is not None:
                self._ended.set()

    def _take(self, part: _Range, rows: pa.Table) -> bool:
        """Keep a page's rows as far as they belong to the range; whether the range ends here."""
        first, last = rows["key"][0].as_py(), rows["key"][-1].as_py()
        with self._lock:
            if part.end is not None and last > part.end:
                part.pages.append(rows.filter(pc.less_equal(rows["key"], pa.scalar(part.end, pa.large_string()))))
                return True
            part.pages.append(rows)
            if self._ended.is_set():
                return True
            if rows.num_rows >= PAGE_OBJECTS and self._active < self._threads:
                middle = split_point(first, last, part.end, floor=len(self._prefix))
                if middle is not None:
                    self._begin(_Range(middle, part.end))
                    part.end = middle
            return False


def split_point(first: str, last: str, end: str | None, *, floor: int) -> str | None:
    """A key after ``last`` and before ``end`` beyond which something may lie.

    Args:
        first, last: the page just listed begins and ends with these.
        end: the range's end; ``None``: open.
        floor: so many characters all keys have in common.
    """
    differ = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    found = [
        raised
        for place in range(floor, min(differ, len(last) - 1) + 1)
        if (raised := _raised(last, floor, place)) is not None and (end is None or raised < end)
    ]
    if not found:
        return None
    # The first place makes the largest pieces, if keys go on beyond it; where there are many, few are such.
    return found[len(found) // 2 if len(found) > _FEW_PLACES else 0]


def _raised(key: str, floor: int, place: int) -> str | None:
    """The key cut after a place whose character is raised by one step; ``None`` where stores might sort it otherwise.

    UTF-8 and UTF-16 disagree on some characters from U+D800 on. Where a key without such stands among any others is
    the same in both.
    """
    step = next((step for step in _STEPS if step > key[place]), None)
    return key[:place] + step if step is not None and max(key[floor:place], default="") < "\ud800" else None


def _by_folders(store: ObjectStore, prefix: str, start_after: str | None, threads: int) -> pa.Table:
    """Folder by folder, down to the first level with several; all in one where there are too many."""
    found: list[pa.Table] = []
    folders: tuple[str, ...] = (prefix,)
    while len(folders) == 1:
        seen = list(list_pages(store, folders[0], start_after=start_after, shallow=True))
        found += [page.objects for page in seen]
        folders = tuple(folder for page in seen for folder in page.folders if _reaches(folder, start_after))
    if len(folders) > MOST_FOLDERS:
        return _pages(list_pages(store, prefix, start_after=start_after))
    with ThreadPoolExecutor(threads, thread_name_prefix="holdfast-list") as pool:
        deep = pool.map(lambda folder: _pages(list_pages(store, folder, start_after=start_after)), folders)
        found += list(deep)
    table = gather(found)
    keys = table["key"]
    in_order = table.num_rows < 2 or pc.all(pc.less(keys[:-1], keys[1:])).as_py()
    return table if in_order else table.sort_by("key")


def _reaches(folder: str, start_after: str | None) -> bool:
    """Whether the folder may hold a key after this one."""
    return start_after is None or folder > start_after or start_after.startswith(folder)
