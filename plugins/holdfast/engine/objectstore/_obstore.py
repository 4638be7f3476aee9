"""`ObjectStore` over an obstore store: what S3, GCS, Azure, a local folder and memory share.

Only obstore's synchronous API is used: its asynchronous one aborts the interpreter at exit (pyo3-async-runtimes #40).
obstore's runtime does not survive a fork; see `Clients`.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config import Cloud
from holdfast.engine.objectstore._clients import Clients
from holdfast.engine.objectstore._translate import Call, is_unsatisfiable_range, translate
from holdfast.engine.objectstore._values import lower_bound, read_condition, same, take, version_of
from holdfast.engine.objectstore.attribute_rules import put_options
from holdfast.engine.objectstore.attributes import Attributes, attributes_of
from holdfast.engine.objectstore.credentials import WatchedCredentials
from holdfast.engine.objectstore.errors import (
    InvalidKey,
    NotSupported,
    ObjectNotFound,
    ObjectStoreError,
    PreconditionFailed,
    StoreUnavailable,
)
from holdfast.engine.objectstore.exact import Exact, ExactLister, Reading
from holdfast.engine.objectstore.handover import Handover
from holdfast.engine.objectstore.interface import (
    OVERWRITE,
    ByteRange,
    Capabilities,
    Create,
    IfMatch,
    ObjectInfo,
    ObjectReader,
    ObjectVersion,
    Overwrite,
    PutMode,
)
from holdfast.engine.objectstore.keys import check_key, is_plain
from holdfast.engine.objectstore.pages import LISTING, PAGE_OBJECTS, Page, Split, gather, infos_of, page_of
from holdfast.engine.objectstore.timeouts import RequestLimits, Timeouts
from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ObjectStore as Client

    from holdfast.engine.objectstore.parts.interface import PartStore

_T = TypeVar("_T")

#: A streamed read fetches windows of this size, each a request of its own pinned to the first one's version.
WINDOW_BYTES = 8 * 1024 * 1024
#: A streamed write sends parts of this size; S3 takes 10 000 of them, so 80 GiB is the largest streamed object.
PART_BYTES = 8 * 1024 * 1024
PARTS_IN_FLIGHT = 4
#: After a proof that the bucket is there, a 404 of a HEAD is the object's for so long.
_BUCKET_SEEN_SECONDS = 30.0


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


class ObstoreStore:
    """One bucket and prefix behind obstore.

    Args:
        name: who this is in messages.
        prefix: key prefix inside the bucket, without slashes at its ends; may be empty.
        traits: how the backend differs.
        build: makes an obstore client with these limits.
        timeouts: limits of one request.
        credentials: the provider `build` hands to obstore, so that its failure is told as its own.
        parts: makes the store's part-wise side; ``None``: it has none.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        *,
        name: str,
        prefix: str,
        traits: Traits,
        build: Callable[[RequestLimits], Client],
        timeouts: Timeouts,
        credentials: WatchedCredentials | None = None,
        parts: Callable[[ObstoreStore], PartStore] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._credentials = credentials
        self._make_parts = parts
        self._parts: PartStore | None = None
        self._exactly_known: Exact | None = None
        self._parts_lock = threading.Lock()
        self._prefix = f"{check_key(prefix.strip('/'), name)}/" if prefix.strip("/") else ""
        self._traits = traits
        self._clients = Clients(build)
        self._timeouts = timeouts
        self._monotonic = monotonic
        self._bucket_seen_at: float | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    @property
    def name(self) -> str:
        return self._name

    def capabilities(self) -> Capabilities:
        return self._traits.capabilities

    # -- reading ---------------------------------------------------------------------------------------------------

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

    def head(self, key: str) -> ObjectInfo:
        path = self._path(key)
        call = Call(self._name, "head", key, writes=False)
        try:
            return self._info(self._run(call, lambda: obstore.head(self._client(), path)))
        except ObjectNotFound:
            if self._traits.head_hides_bucket and not self._bucket_seen_lately():
                self._run(Call(self._name, "list", None, writes=False), self._one_listed)
            raise

    def _one_listed(self) -> None:
        next(iter(obstore.list(self._client(), prefix=self._prefix.rstrip("/") or None, chunk_size=1)), None)

    def get(self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None) -> bytes:
        if byte_range is None:
            reader = self.open(key, if_match=if_match, chunk_bytes=4 * WINDOW_BYTES, size_bytes=0)
        else:
            reader = self.open(key, byte_range=byte_range, if_match=if_match, chunk_bytes=4 * WINDOW_BYTES)
        chunks = list(reader.chunks)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def open(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: ObjectVersion | None = None,
        chunk_bytes: int = 4 * 1024 * 1024,
        size_bytes: int | None = None,
    ) -> ObjectReader:
        try:
            return self._open(key, byte_range, if_match, chunk_bytes, size_bytes)
        except ObjectNotFound:
            if if_match is not None:
                self.missed(key)
            raise

    def missed(self, key: str) -> None:
        """A listed object was not found. It is gone, or its key ends with a slash, which later listings then say."""
        with suppress(HoldfastError):
            if (exact := self._exact()) is not None:
                exact.missed(self._path(key))

    def _open(
        self,
        key: str,
        byte_range: ByteRange | None,
        if_match: ObjectVersion | None,
        chunk_bytes: int,
        size_bytes: int | None,
    ) -> ObjectReader:
        if byte_range is None and size_bytes is not None and size_bytes <= WINDOW_BYTES:
            reader = self._open_whole(key, if_match, chunk_bytes)
            if reader is not None:
                return reader
        window_bytes = max(chunk_bytes, WINDOW_BYTES)
        start, end = (byte_range.start, byte_range.end) if byte_range else (0, None)
        if start < 0 or (end is not None and end < start):
            raise ValueError(f"not a range of bytes: {byte_range}")
        first_end = start + window_bytes if end is None else min(end, start + window_bytes)
        if first_end == start:
            return self._open_nothing(key, if_match)
        call = Call(self._name, "get", key, writes=False)
        path = self._path(key)
        try:
            result, data = self._run(
                call, lambda: self._window(path, start, first_end, read_condition(if_match)), keep_range=True
            )
        except _UnsatisfiableRange:
            return self._open_nothing(key, if_match, whole=byte_range is None)
        info = self._info(result.meta)
        last = info.size_bytes if end is None else min(end, info.size_bytes)
        return ObjectReader(
            info=info,
            chunks=self._chunks(call, path, data, start, last, window_bytes, info.version, chunk_bytes),
            attributes=attributes_of(result.attributes),
        )

    def _open_whole(self, key: str, if_match: ObjectVersion | None, chunk_bytes: int) -> ObjectReader | None:
        """The object in one plain request, which is of one version by itself; ``None``: it is too large for that."""
        path = self._path(key)
        call = Call(self._name, "get", key, writes=False)

        def request() -> tuple[Any, bytes | None]:
            client = self._client(self._timeouts.reading(WINDOW_BYTES))
            result = obstore.get(client, path, options=read_condition(if_match))
            return result, bytes(result.bytes()) if result.meta["size"] <= WINDOW_BYTES else None

        result, data = self._run(call, request)
        if data is None:
            return None
        info = self._info(result.meta)
        if info.version.e_tag is None:  # a login page of some proxy; to a range it could not have answered so
            raise StoreUnavailable(
                "the answer is not one of an object store", where=call.where, expected="an ETag", found="none"
            )
        if len(data) != info.size_bytes:
            raise _cut_short(call, info.size_bytes, len(data))
        return ObjectReader(info=info, chunks=_pieces(data, chunk_bytes), attributes=attributes_of(result.attributes))

    def _chunks(
        self,
        call: Call,
        path: str,
        data: bytes,
        start: int,
        end: int,
        window_bytes: int,
        version: ObjectVersion,
        chunk_bytes: int,
    ) -> Iterator[bytes]:
        position = start
        while True:
            expected = min(window_bytes, end - position)
            if len(data) != expected:
                raise _cut_short(call, expected, len(data))
            yield from _pieces(data, chunk_bytes)
            position += len(data)
            if position >= end:
                return
            fetch = partial(self._window, path, position, min(end, position + window_bytes), read_condition(version))
            _, data = self._run(call, fetch)

    def _window(self, path: str, start: int, end: int, condition: GetOptions) -> tuple[Any, bytes]:
        client = self._client(self._timeouts.reading(end - start))
        result = obstore.get(client, path, options={**condition, "range": (start, end)})
        return result, bytes(result.bytes())

    def _open_nothing(self, key: str, if_match: ObjectVersion | None, *, whole: bool = False) -> ObjectReader:
        """A read without a byte: of an empty object, or of a range beyond the end."""
        if whole and (reader := self._open_whole(key, if_match, WINDOW_BYTES)) is not None:
            return reader
        info = self.head(key)
        if if_match is not None and not same(info.version, if_match):
            raise PreconditionFailed(
                "the object is not in the version named",
                where=f"{self._name}: get {key}",
                expected=str(if_match.e_tag),
                found=str(info.version.e_tag),
            )
        return ObjectReader(info=info, chunks=iter(()))

    # -- writing ---------------------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: bytes | Iterable[bytes],
        *,
        mode: PutMode = OVERWRITE,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> ObjectVersion:
        path = self._path(key)
        call = Call(self._name, "put", key, writes=True)
        asked = (content_type, metadata, attributes)
        said = put_options(call, self._traits.capabilities, self._traits.cloud, *asked)
        if isinstance(data, bytes | bytearray | memoryview):
            return self._put_whole(call, key, path, bytes(data), mode, said)
        if not isinstance(mode, Overwrite):
            raise NotSupported(
                "a streamed put cannot be conditional",
                where=call.where,
                expected="bytes, or mode OVERWRITE",
                found=type(mode).__name__,
            )
        source = iter(data)
        beginning = take(source, PART_BYTES)
        if sum(map(len, beginning)) < PART_BYTES:
            return self._put_whole(call, key, path, b"".join(beginning), mode, said)
        return self._put_streamed(call, path, itertools.chain(beginning, source), said)

    def _put_whole(
        self, call: Call, key: str, path: str, data: bytes, mode: PutMode, said: dict[str, Any]
    ) -> ObjectVersion:
        condition: Any = "overwrite"
        if isinstance(mode, Create):
            condition = "create"
        elif isinstance(mode, IfMatch):
            condition = self._put_condition(call, key, mode.version)
        client = self._client(self._timeouts.writing(len(data)))
        result = self._run(
            call,
            lambda: obstore.put(client, path, data, mode=condition, use_multipart=False, **said),
        )
        return version_of(result)

    def _put_streamed(self, call: Call, path: str, source: Iterator[bytes], said: dict[str, Any]) -> ObjectVersion:
        client = self._client(self._timeouts.writing(PARTS_IN_FLIGHT * PART_BYTES))
        with Handover(source) as chunks:
            try:
                result = self._run(
                    call,
                    lambda: obstore.put(
                        client,
                        path,
                        chunks,
                        use_multipart=True,
                        chunk_size=PART_BYTES,
                        max_concurrency=PARTS_IN_FLIGHT,
                        **said,
                    ),
                )
            except HoldfastError:
                if chunks.error is not None:
                    raise chunks.error from None
                raise
        return version_of(result)

    def _put_condition(self, call: Call, key: str, version: ObjectVersion) -> dict[str, str]:
        if not self._traits.capabilities.compare_and_swap:
            raise NotSupported(
                "this backend has no compare-and-swap",
                where=call.where,
                expected="mode OVERWRITE or CREATE",
                found="IfMatch",
            )
        if not self._traits.version_in_condition:
            if version.e_tag is None:
                raise NotSupported("this backend compares by ETag", where=call.where, found="a version without an ETag")
            return {"e_tag": version.e_tag}
        if version.version is not None:
            return {"version": version.version, **({"e_tag": version.e_tag} if version.e_tag else {})}
        # A listing does not carry the generation. The put is still pinned: to the generation that has this ETag now.
        try:
            current = self.head(key).version
        except ObjectNotFound:
            current = ObjectVersion(None)
        if current.version is None or current.e_tag != version.e_tag:
            raise PreconditionFailed(
                "the object is not in the version named",
                where=call.where,
                expected=str(version.e_tag),
                found=str(current.e_tag),
            )
        return {"version": current.version}

    def copy(self, source: str, target: str) -> None:
        from_path, to_path = self._path(source), self._path(target)
        call = Call(self._name, "copy", f"{source} to {target}", writes=True)
        self._run(call, lambda: obstore.copy(self._client(), from_path, to_path))

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            self._run(Call(self._name, "delete", key, writes=True), lambda: obstore.delete(self._client(), path))
        except ObjectNotFound:
            return

    # -- the rest --------------------------------------------------------------------------------------------------

    def parts(self) -> PartStore | None:
        """Its part-wise side, one for all callers; see `holdfast.engine.objectstore.parts.part_store`."""
        with self._parts_lock:
            if self._parts is None and self._make_parts is not None:
                self._parts = self._make_parts(self)
            return self._parts

    def path_of(self, key: str) -> str:
        """The key inside the bucket: with the store's prefix. Raises InvalidKey."""
        return self._path(key)

    @property
    def prefix(self) -> str:
        """What stands before every key inside the bucket; empty or ending with ``/``."""
        return self._prefix

    def _path(self, key: str) -> str:
        check_key(key, self._name)
        return check_key(self._prefix + key, self._name)

    def _client(self, limits: RequestLimits | None = None) -> Client:
        return self._clients.get(limits or self._timeouts.writing(0), self._name)

    def _run(self, call: Call, request: Callable[[], _T], *, keep_range: bool = False) -> _T:
        try:
            answer = request()
        except HoldfastError:
            raise
        except Exception as error:
            if (failed := self._credentials_error()) is not None:
                raise failed from None
            if keep_range and is_unsatisfiable_range(error):
                raise _UnsatisfiableRange from None
            raise translate(error, call) from None
        except BaseException as error:
            if type(error).__name__ == "PanicException":  # obstore's own failure; not even an Exception
                raise ObjectStoreError("obstore failed inside", where=call.where, found=str(error)[:200]) from None
            raise
        self._bucket_seen_at = self._monotonic()
        return answer

    def _credentials_error(self) -> HoldfastError | None:
        return self._credentials.take_error(self._name) if self._credentials is not None else None

    def _bucket_seen_lately(self) -> bool:
        return self._bucket_seen_at is not None and self._monotonic() - self._bucket_seen_at < _BUCKET_SEEN_SECONDS

    def _info(self, meta: ObjectMeta) -> ObjectInfo:
        return ObjectInfo(
            key=meta["path"][len(self._prefix) :],
            size_bytes=meta["size"],
            modified_at=meta["last_modified"],
            version=version_of(meta),
        )


def _pieces(data: bytes, chunk_bytes: int) -> Iterator[bytes]:
    if len(data) <= chunk_bytes:
        return iter((data,) if data else ())
    return (data[offset : offset + chunk_bytes] for offset in range(0, len(data), chunk_bytes))


def _cut_short(call: Call, expected_bytes: int, found_bytes: int) -> StoreUnavailable:
    return StoreUnavailable(
        "the answer was cut short",
        where=call.where,
        expected=f"{expected_bytes} bytes",
        found=f"{found_bytes} bytes",
    )


def _has_bytes(batch: Any, folder: str) -> bool:
    """Whether a folder's own name is an object that is more than a marker: its key ends with a slash."""
    first = batch["path"][0].as_py()
    return bool(first == folder and batch["size"][0].as_py())


def _slash_at_the_end(call: Call) -> InvalidKey:
    return InvalidKey("an object's key ends with a slash", where=call.where, fix="Rename or remove that object")


class _UnsatisfiableRange(Exception):
    """The object has no byte in the range."""
