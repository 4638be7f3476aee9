"""`ObjectStore` over an obstore store: what S3, GCS, Azure, a local folder and memory share.

Only obstore's synchronous API is used: its asynchronous one aborts the interpreter at exit (pyo3-async-runtimes #40).
obstore's runtime does not survive a fork; see `Clients`.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import obstore

from holdfast.engine.objectstore._clients import Clients
from holdfast.engine.objectstore._listings import ObstoreListings, Traits
from holdfast.engine.objectstore._translate import Call, is_unsatisfiable_range, translate
from holdfast.engine.objectstore._values import read_condition, same, take, version_of
from holdfast.engine.objectstore._whole import PendingOpen, in_memory, pieces
from holdfast.engine.objectstore.ahead import AHEAD_BYTES
from holdfast.engine.objectstore.attribute_rules import put_options
from holdfast.engine.objectstore.attributes import Attributes, attributes_of
from holdfast.engine.objectstore.credentials import WatchedCredentials
from holdfast.engine.objectstore.errors import (
    NotSupported,
    ObjectNotFound,
    ObjectStoreError,
    PreconditionFailed,
    StoreUnavailable,
)
from holdfast.engine.objectstore.exact import Exact
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
from holdfast.engine.objectstore.keys import check_key
from holdfast.engine.objectstore.timeouts import RequestLimits, Timeouts
from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ObjectStore as Client

    from holdfast.engine.objectstore._whole import WholeObjects
    from holdfast.engine.objectstore.ahead import Pending
    from holdfast.engine.objectstore.parts.interface import PartStore

__all__ = ["ObstoreStore", "Traits"]

_T = TypeVar("_T")

#: A streamed read fetches windows of this size, each a request of its own pinned to the first one's version.
WINDOW_BYTES = 8 * 1024 * 1024
#: A streamed write sends parts of this size; S3 takes 10 000 of them, so 80 GiB is the largest streamed object.
PART_BYTES = 8 * 1024 * 1024
PARTS_IN_FLIGHT = 4
#: Puts up to this size share one set of limits.
_SMALL_BYTES = 64 * 1024
#: After a proof that the bucket is there, a 404 of a HEAD is the object's for so long.
_BUCKET_SEEN_SECONDS = 30.0


class ObstoreStore(ObstoreListings):
    """One bucket and prefix behind obstore.

    Args:
        name: who this is in messages.
        prefix: key prefix inside the bucket, without slashes at its ends; may be empty.
        traits: how the backend differs.
        build: makes an obstore client with these limits.
        timeouts: limits of one request.
        credentials: the provider `build` hands to obstore, so that its failure is told as its own.
        parts: makes the store's part-wise side; ``None``: it has none.
        whole: makes what reads and writes small objects instead of obstore; ``None``, or if it gives that: nothing.
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
        whole: Callable[[ObstoreStore], WholeObjects | None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._credentials = credentials
        self._make_parts = parts
        self._parts: PartStore | None = None
        self._make_whole = whole
        self._whole: WholeObjects | None = None
        self._exactly_known: Exact | None = None
        self._parts_lock = threading.Lock()
        self._prefix = f"{check_key(prefix.strip('/'), name)}/" if prefix.strip("/") else ""
        self._traits = traits
        self._clients = Clients(build)
        self._timeouts = timeouts
        # Asked for with every small object, so not made anew each time.
        self._plain_limits, self._small_limits = timeouts.writing(0), timeouts.writing(_SMALL_BYTES)
        self._whole_limits = timeouts.reading(WINDOW_BYTES)
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
        if (whole := self._whole_objects()) is not None:
            found = whole.begin_range(call, path, if_match, start, first_end).result()
            if found is not None:
                self._bucket_seen_at = self._monotonic()
                info, data, attributes = found
                last = info.size_bytes if end is None else min(end, info.size_bytes)
                chunks = self._chunks(call, path, data, start, last, window_bytes, info.version, chunk_bytes)
                return ObjectReader(info=info, chunks=chunks, attributes=attributes)
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
        if (whole := self._whole_objects()) is not None:
            found = whole.begin_get(call, path, if_match, max(chunk_bytes, WINDOW_BYTES)).result()
            self._bucket_seen_at = self._monotonic()
            return None if found is None else in_memory(found, chunk_bytes)

        def request() -> tuple[Any, bytes | None]:
            client = self._client(self._whole_limits)
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
        attributes = attributes_of(result.attributes)
        return ObjectReader(info=info, chunks=pieces(data, chunk_bytes), attributes=attributes, is_whole=True)

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
            yield from pieces(data, chunk_bytes)
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
        if (whole := self._whole_objects()) is not None:
            version = whole.begin_put(call, path, data, mode, said).result()
            self._bucket_seen_at = self._monotonic()
            return version
        small = len(data) <= _SMALL_BYTES
        client = self._client(self._small_limits if small else self._timeouts.writing(len(data)))
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

    # -- ahead -----------------------------------------------------------------------------------------------------

    def takes_ahead(self) -> bool:
        return self._whole_objects() is not None

    def begin_open(self, key: str, *, if_match: ObjectVersion | None, size_bytes: int) -> Pending[ObjectReader] | None:
        whole = self._whole_objects()
        if whole is None or size_bytes > AHEAD_BYTES:
            return None
        path = self._path(key)
        call = Call(self._name, "get", key, writes=False)
        return PendingOpen(self, key, if_match, whole.begin_get(call, path, if_match, AHEAD_BYTES))

    def begin_put(
        self,
        key: str,
        data: bytes,
        *,
        mode: PutMode,
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> Pending[ObjectVersion] | None:
        whole = self._whole_objects()
        if whole is None or len(data) > AHEAD_BYTES or isinstance(mode, IfMatch):
            return None
        path = self._path(key)
        call = Call(self._name, "put", key, writes=True)
        said = put_options(call, self._traits.capabilities, self._traits.cloud, None, metadata, attributes)
        return whole.begin_put(call, path, data, mode, said)

    # -- the rest --------------------------------------------------------------------------------------------------

    def parts(self) -> PartStore | None:
        """Its part-wise side, one for all callers; see `holdfast.engine.objectstore.parts.part_store`."""
        with self._parts_lock:
            if self._parts is None and self._make_parts is not None:
                self._parts = self._make_parts(self)
            return self._parts

    def _whole_objects(self) -> WholeObjects | None:
        if self._make_whole is not None:
            make = self._make_whole
            self._whole, self._make_whole = make(self), None
        return self._whole

    def path_of(self, key: str) -> str:
        """The key inside the bucket: with the store's prefix. Raises InvalidKey."""
        return self._path(key)

    @property
    def prefix(self) -> str:
        """What stands before every key inside the bucket; empty or ending with ``/``."""
        return self._prefix

    def _path(self, key: str) -> str:
        check_key(key, self._name)
        return check_key(self._prefix + key, self._name) if self._prefix else key

    def _client(self, limits: RequestLimits | None = None) -> Client:
        return self._clients.get(limits or self._plain_limits, self._name)

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


def _cut_short(call: Call, expected_bytes: int, found_bytes: int) -> StoreUnavailable:
    return StoreUnavailable(
        "the answer was cut short",
        where=call.where,
        expected=f"{expected_bytes} bytes",
        found=f"{found_bytes} bytes",
    )


class _UnsatisfiableRange(Exception):
    """The object has no byte in the range."""
