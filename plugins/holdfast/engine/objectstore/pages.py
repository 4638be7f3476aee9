"""Listings in Arrow pages: no Python object per row.

`PagedStore` is what a store may offer beside `ObjectStore`; `list_pages` makes pages from the iterator of one that does
not. Decorators pass pages on under the same rules as everything else: tried again, throttled, counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.objectstore import _arrow  # noqa: F401 - before the first array is made
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore, ObjectVersion

#: Keys are large strings: ten million long ones pass the two gigabytes an ordinary string array can hold.
LISTING = pa.schema(
    [
        pa.field("key", pa.large_string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("e_tag", pa.large_string()),
        pa.field("version", pa.large_string()),
    ]
)
#: What S3 and GCS answer with at most; a page with as many rows is not the last.
PAGE_OBJECTS = 1000
_CHUNK_PAGES = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Split(StrEnum):
    """How a store's listing can be shared out among threads."""

    RANGES = "ranges"  # the server itself begins at `start_after`
    FOLDERS = "folders"  # it does not, but can list one folder
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Page:
    """Some objects of a listing (schema `LISTING`, in key order), and of a shallow one also the folders seen."""

    objects: pa.Table
    folders: tuple[str, ...] = ()


@runtime_checkable
class PagedStore(Protocol):
    """A store that lists in Arrow pages."""

    def listing_split(self) -> Split:
        """How its listing can be shared out."""

    def list_pages(self, prefix: str = "", *, start_after: str | None = None, shallow: bool = False) -> Iterator[Page]:
        """As `ObjectStore.list`, in pages. ``shallow``: one page of what lies directly in the prefix's folder."""


def listing_split(store: ObjectStore) -> Split:
    """How this store's listing can be shared out; one that has no pages: not at all."""
    return store.listing_split() if isinstance(store, PagedStore) else Split.NOTHING


def list_pages(
    store: ObjectStore, prefix: str = "", *, start_after: str | None = None, shallow: bool = False
) -> Iterator[Page]:
    """A store's pages, made from its iterator where it has none of its own (then ``shallow`` is not for it)."""
    if isinstance(store, PagedStore):
        return store.list_pages(prefix, start_after=start_after, shallow=shallow)
    return pages_of(store.list(prefix, start_after=start_after))


def pages_of(infos: Iterable[ObjectInfo]) -> Iterator[Page]:
    """Objects as pages."""
    source = iter(infos)
    while rows := list(islice(source, PAGE_OBJECTS)):
        yield Page(table_of(rows))


def table_of(infos: Iterable[ObjectInfo]) -> pa.Table:
    """Objects as a table of schema `LISTING`."""
    rows = list(infos)
    columns = {
        "key": [info.key for info in rows],
        "size_bytes": [info.size_bytes for info in rows],
        "modified_at": [info.modified_at for info in rows],
        "e_tag": [info.version.e_tag for info in rows],
        "version": [info.version.version for info in rows],
    }
    return pa.table(columns, schema=LISTING)


def infos_of(table: pa.Table) -> Iterator[ObjectInfo]:
    """The objects of a table of schema `LISTING`."""
    since = (_EPOCH + timedelta(microseconds=value) for value in table["modified_at"].cast(pa.int64()).to_pylist())
    columns = (table[name].to_pylist() for name in ("key", "size_bytes", "e_tag", "version"))
    for key, size_bytes, e_tag, version, at in zip(*columns, since, strict=True):
        yield ObjectInfo(key=key, size_bytes=size_bytes, modified_at=at, version=ObjectVersion(e_tag, version))


def page_of(batch: object, root: str, *, wanted: str, after: str | None) -> pa.Table:
    """A batch of obstore's Arrow listing as a table of schema `LISTING`.

    Args:
        batch: anything Arrow that has ``path, last_modified, size, e_tag, version``.
        root: the store's own prefix, which keys do not carry.
        wanted: only paths that begin with it, itself with the root.
        after: only paths after this one, itself with the root.
    """
    rows = pa.table(batch)
    path = rows["path"].cast(pa.large_string())
    mask = pc.starts_with(path, wanted)
    if after is not None:
        mask = pc.and_(mask, pc.greater(path, pa.scalar(after, pa.large_string())))
    if not pc.all(mask).as_py():
        rows, path = rows.filter(mask), path.filter(mask)
    columns = [
        pc.utf8_slice_codeunits(path, len(root)) if root else path,
        rows["size"].cast(pa.int64()),
        rows["last_modified"].cast(pa.timestamp("us", tz="UTC")),
        _quoted(rows["e_tag"].cast(pa.large_string())),
        _named(rows["version"].cast(pa.large_string())),
    ]
    return pa.table(columns, schema=LISTING)


def gather(tables: Iterable[pa.Table]) -> pa.Table:
    """Many small tables as one of few chunks: a chunk per page is slow to work on."""
    source = iter(tables)
    chunks = []
    while some := list(islice(source, _CHUNK_PAGES)):
        chunks.append(pa.concat_tables(some).combine_chunks())
    return pa.concat_tables(chunks) if chunks else LISTING.empty_table()


def _quoted(e_tag: pa.ChunkedArray) -> pa.ChunkedArray:
    """ETags as everywhere: Azure's listing gives them without their quotes."""
    if pc.all(pc.ends_with(e_tag, '"')).as_py() is not False:  # all, or there are none
        return e_tag
    quote, nothing = pa.scalar('"', pa.large_string()), pa.scalar("", pa.large_string())
    return pc.if_else(pc.ends_with(e_tag, '"'), e_tag, pc.binary_join_element_wise(quote, e_tag, quote, nothing))


def _named(version: pa.ChunkedArray) -> pa.ChunkedArray:
    """Versions; S3 calls no version ``null``."""
    if version.null_count == len(version):
        return version
    none = pc.is_in(version, value_set=pa.array(["", "null"], pa.large_string()))
    return pc.if_else(none, pa.scalar(None, pa.large_string()), version)
