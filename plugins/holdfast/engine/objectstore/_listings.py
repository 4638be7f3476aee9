"""Listings over obstore, made exact where it shows other keys or stops: see `exact`."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config import Cloud
from holdfast.engine.objectstore._translate import Call
from holdfast.engine.objectstore._values import lower_bound
from holdfast.engine.objectstore.errors import InvalidKey
from holdfast.engine.objectstore.exact import Exact, ExactLister, Reading
from holdfast.engine.objectstore.interface import Capabilities, ObjectInfo
from holdfast.engine.objectstore.keys import is_plain
from holdfast.engine.objectstore.pages import LISTING, PAGE_OBJECTS, Page, Split, gather, infos_of, page_of
from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

    from holdfast.engine.objectstore.parts.interface import PartStore

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Traits:
    """How a backend differs where the shared code must know."""

    capabilities: Capabilities
    #: Whose rules attributes must keep; ``None``: nobody's.
    cloud: Cloud | None = None
    #: Names a version by its generation in a conditional put (GCS); the others by the ETag.
    version_in_condition: bool = False
    sorted_listing: bool = True
    #: How a listing may be shared out among threads: whether the server itself begins where it is told to.
    listing_split: Split = Split.RANGES
    #: A 404 of a HEAD does not say whether it is the object or the bucket.
    head_hides_bucket: bool = True


class ObstoreListings(ABC):
    """The listing side of `ObstoreStore`."""

    _name: str
    _prefix: str
    _traits: Traits
    _parts_lock: threading.Lock
    _exactly_known: Exact | None = None

    @abstractmethod
    def parts(self) -> PartStore | None:
        """Its part-wise side."""

    @abstractmethod
    def _client(self) -> Client: ...

    @abstractmethod
    def _run(self, call: Call, request: Callable[[], _T]) -> _T: ...

    @abstractmethod
    def _path(self, key: str) -> str: ...

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        call = Call(self._name, "list", prefix or None, writes=False)
        wanted = self._prefix + prefix
        after = None if start_after is None else self._prefix + start_after
        infos = self._listed(wanted, after, call)
        return infos if self._traits.sorted_listing else iter(sorted(infos, key=lambda info: info.key))

    def _listed(self, wanted: str, after: str | None, call: Call) -> Iterator[ObjectInfo]:
        return (info for page in self._paged(wanted, after, call) for info in infos_of(page.objects))

    def listing_split(self) -> Split:
        return self._traits.listing_split

    def list_pages(self, prefix: str = "", *, start_after: str | None = None, shallow: bool = False) -> Iterator[Page]:
        call = Call(self._name, "list", prefix or None, writes=False)
        wanted = self._prefix + prefix
        after = None if start_after is None else self._prefix + start_after
        if shallow:
            return iter([self._shallow_page(wanted, after, call)])
        pages = self._paged(wanted, after, call)
        return pages if self._traits.sorted_listing else iter([Page(gather(p.objects for p in pages).sort_by("key"))])

    def _paged(self, wanted: str, after: str | None, call: Call) -> Iterator[Page]:
        exact = self._exact()
        if exact is None:
            pages = self._stream(wanted, after, call, exact=False)
        elif not is_plain(wanted.rpartition("/")[0]):
            pages = exact.listed(wanted, after)
        else:
            pages = self._exactly(Reading(exact, wanted, after), self._stream(wanted, after, call, exact=True))
        return (Page(self._own(rows)) for rows in pages)

    def _exactly(self, reading: Reading, stream: Iterator[pa.Table]) -> Iterator[pa.Table]:
        while True:
            try:
                page = next(stream, None)
            except InvalidKey:
                yield from reading.rest()
                return
            if page is None:
                return
            yield from reading.page(page)

    def _stream(self, wanted: str, after: str | None, call: Call, *, exact: bool) -> Iterator[pa.Table]:
        """obstore's listing in pages that are not empty, keys as in the bucket; to be made exact it may begin early."""
        folder = wanted.rpartition("/")[0]
        stop_early = self._traits.sorted_listing and wanted.isascii()
        batches = iter(self._run(call, lambda: self._list_stream(folder, lower_bound(wanted, after))))
        while (batch := self._run(call, lambda: next(batches, None))) is not None:
            page = page_of(batch, "", wanted=wanted, after=None if exact else after)
            if folder and folder != wanted and after is None and _has_bytes(batch, folder):
                raise _slash_at_the_end(call)
            if page.num_rows:
                yield page
            last = batch["path"][-1].as_py()
            if stop_early and last > wanted and not last.startswith(wanted):
                return

    def _own(self, rows: pa.Table) -> pa.Table:
        """Rows of the bucket with the store's own keys."""
        if not self._prefix:
            return rows
        return rows.set_column(0, LISTING.field("key"), pc.utf8_slice_codeunits(rows["key"], len(self._prefix)))

    def _exact(self) -> Exact | None:
        """Lists without obstore, where the backend's parts can."""
        lister: object = self.parts()
        with self._parts_lock:
            if self._exactly_known is None and isinstance(lister, ExactLister):
                self._exactly_known = Exact(lister)
            return self._exactly_known

    def _shallow_page(self, wanted: str, after: str | None, call: Call) -> Page:
        folder = wanted.rpartition("/")[0] or None
        try:
            seen = self._run(call, lambda: obstore.list_with_delimiter(self._client(), folder, return_arrow=True))
        except InvalidKey:
            exact = self._exact()
            if exact is None:
                raise
            return Page(self._own(gather(exact.listed(wanted, after))))  # everything below, and so no folders
        folders = (f"{path}/" for path in seen["common_prefixes"])
        return Page(
            self._own(page_of(seen["objects"], "", wanted=wanted, after=after).sort_by("key")),
            tuple(path[len(self._prefix) :] for path in sorted(folders) if path.startswith(wanted)),
        )

    def _list_stream(self, folder: str, offset: str | None) -> Iterable[Any]:
        client, prefix = self._client(), folder or None
        try:
            return obstore.list(client, prefix=prefix, offset=offset, chunk_size=PAGE_OBJECTS, return_arrow=True)
        except ValueError:  # an offset obstore's path type does not take is only an optimisation lost
            return obstore.list(client, prefix=prefix, chunk_size=PAGE_OBJECTS, return_arrow=True)

    def missed(self, key: str) -> None:
        """A listed object was not found. It is gone, or its key ends with a slash, which later listings then say."""
        with suppress(HoldfastError):
            if (exact := self._exact()) is not None:
                exact.missed(self._path(key))


def _has_bytes(batch: Any, folder: str) -> bool:
    """Whether a folder's own name is an object that is more than a marker: its key ends with a slash."""
    first = batch["path"][0].as_py()
    return bool(first == folder and batch["size"][0].as_py())


def _slash_at_the_end(call: Call) -> InvalidKey:
    return InvalidKey("an object's key ends with a slash", where=call.where, fix="Rename or remove that object")
