"""Serving content: ranges, conditions on entity tags and times, response headers."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from holdfast.sandbox.gcs.blobs import CHUNK_BYTES, Segment
from holdfast.sandbox.gcs.errors import not_modified, precondition_failed, unsatisfiable_range
from holdfast.sandbox.gcs.records import ObjectRecord
from holdfast.sandbox.gcs.storage import Storage

_SERVED_FIELDS = {
    "cacheControl": "Cache-Control",
    "contentDisposition": "Content-Disposition",
    "contentEncoding": "Content-Encoding",
    "contentLanguage": "Content-Language",
}


def parse_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of a ``Range`` header; None when the whole is to be sent.

    Several ranges at once, and what is no range at all, are answered with the whole (RFC 9110, 14.2).

    Raises:
        GcsError: 416 when the range starts behind the end.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        if int(last) == 0 or size_bytes == 0:
            raise unsatisfiable_range(size_bytes)
        return max(size_bytes - int(last), 0), size_bytes
    start, end = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
    if last and int(last) < start:
        return None
    if start >= size_bytes:
        raise unsatisfiable_range(size_bytes)
    return start, end


def check_entity_tags(headers: Mapping[str, str], etag: str) -> None:
    """``If-Match`` and ``If-None-Match``; 412 or 304. Tags may come quoted or not."""
    if "if-match" in headers and not _names(headers["if-match"], etag):
        raise precondition_failed("If-Match", header=True)
    if "if-none-match" in headers and _names(headers["if-none-match"], etag):
        raise not_modified()


def check_times(headers: Mapping[str, str], updated_us: int) -> None:
    """``If-Modified-Since`` and ``If-Unmodified-Since`` to the second; 304 or 412.

    Each is ignored next to the entity tag condition that outranks it (RFC 9110, 13.2.2).
    """
    updated = updated_us // 1_000_000
    since = _time(headers.get("if-unmodified-since"))
    if since is not None and "if-match" not in headers and updated > since:
        raise precondition_failed("If-Unmodified-Since", header=True)
    since = _time(headers.get("if-modified-since"))
    if since is not None and "if-none-match" not in headers and updated <= since:
        raise not_modified()


def object_headers(record: ObjectRecord, etag: str) -> dict[str, str]:
    """The headers that describe an object."""
    headers = {
        "ETag": etag,
        "Content-Type": record.content_type,
        "Last-Modified": http_date(record.updated_us),
        "Accept-Ranges": "bytes",
        "x-goog-generation": str(record.generation),
        "x-goog-metageneration": str(record.metageneration),
        "x-goog-hash": record.checksums.goog_hash(),
        "x-goog-storage-class": record.storage_class,
        "x-goog-stored-content-encoding": record.fields.get("contentEncoding", "identity"),
        "x-goog-stored-content-length": str(record.size_bytes),
    }
    for key, name in _SERVED_FIELDS.items():
        if key in record.fields:
            headers[name] = record.fields[key]
    for key, value in record.fields.get("metadata", {}).items():
        headers[f"x-goog-meta-{key}"] = value
    if record.component_count is not None:
        headers["x-goog-component-count"] = str(record.component_count)
    return headers


def http_date(time_us: int) -> str:
    """A time in microseconds since 1970 as HTTP writes it."""
    return format_datetime(datetime.fromtimestamp(time_us // 1_000_000, UTC), usegmt=True)


class ReplacedError(Exception):
    """The generation that was looked up is gone before its content could be pinned."""


def answer_latest(find: Callable[[], ObjectRecord], answer: Callable[[ObjectRecord], Response]) -> Response:
    """Answer from one generation whole; one that was replaced after its look-up is looked up again.

    An overwrite replaces the live object in one step, so a reader finds the old or the new one, never none.

    Args:
        find: looks the object up; raises a 404 when it does not exist (any more).
        answer: makes the answer; raises `ReplacedError` when the object vanished meanwhile.
    """
    while True:
        try:
            return answer(find())
        except ReplacedError:
            continue


def serve(storage: Storage, record: ObjectRecord, request: Request, etag: str) -> Response:
    """The content of an object, or the part of it that was asked for.

    Raises:
        ReplacedError: the generation has just been removed; look the object up again.
    """
    headers = object_headers(record, etag)
    head = request.method == "HEAD"
    if not head and _to_be_decompressed(record, request.headers):
        del headers["Content-Encoding"]
        headers["Warning"] = "214 UploadServer gunzipped"
        plain = {name: _header_value(value) for name, value in headers.items()}
        pin, content = _pinned(storage, record, storage.segments(record), 0, record.size_bytes)
        return _PinnedResponse(pin, _decompressed(content), 200, plain)
    wanted = parse_range(request.headers.get("range"), record.size_bytes)
    start, end = wanted or (0, record.size_bytes)
    headers["Content-Length"] = str(end - start)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{record.size_bytes}"
    status = 206 if wanted is not None else 200
    encoded = {name: _header_value(value) for name, value in headers.items()}
    if head:
        return Response(status_code=200 if wanted is None else 206, headers=encoded)
    segments = storage.segments(record)
    if len(segments) <= 1 and (not segments or segments[0].data is not None):
        data = segments[0].data[start:end] if segments and segments[0].data is not None else b""
        if not segments and not storage.still_there(record):
            raise ReplacedError
        return Response(data, status_code=status, headers=encoded)
    pin, content = _pinned(storage, record, segments, start, end)
    return _PinnedResponse(pin, content, status, encoded)


def _pinned(
    storage: Storage, record: ObjectRecord, segments: list[Segment], start: int, end: int
) -> tuple[ExitStack, AsyncIterator[bytes]]:
    """The content, and what keeps its files while it is read."""
    with ExitStack() as unless_served:
        unless_served.enter_context(storage.blobs.reading(segments))
        if not storage.still_there(record):
            raise ReplacedError
        return unless_served.pop_all(), storage.blobs.read(segments, start, end)


def _to_be_decompressed(record: ObjectRecord, headers: Mapping[str, str]) -> bool:
    """Google decompresses for a client that does not take gzip: https://cloud.google.com/storage/docs/transcoding."""
    stored = record.fields.get("contentEncoding") == "gzip"
    kept = "no-transform" in record.fields.get("cacheControl", "")
    return stored and not kept and "gzip" not in headers.get("accept-encoding", "")


async def _decompressed(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The whole content without its gzip; ranges do not apply to it. An error when it is no gzip."""
    inflate = zlib.decompressobj(wbits=31)
    async for data in content:
        while data:
            yield inflate.decompress(data, CHUNK_BYTES)
            data = inflate.unconsumed_tail
    yield inflate.flush()


class _PinnedResponse(StreamingResponse):
    """A streamed answer that lets go of its content files when it is over, however it ends."""

    def __init__(self, pin: ExitStack, content: AsyncIterator[bytes], status: int, headers: dict[str, str]) -> None:
        super().__init__(content, status_code=status, headers=headers)
        self._pin = pin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._pin:
            await super().__call__(scope, receive, send)


def _names(header: str, etag: str) -> bool:
    tags = {tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")}
    return "*" in tags or etag.strip('"') in tags


def _time(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        return parsedate_to_datetime(header).timestamp()
    except ValueError:
        return None


def _header_value(value: str) -> str:
    """What Starlette's latin-1 header encoding turns into UTF-8 on the wire."""
    return value.replace("\r", " ").replace("\n", " ").encode().decode("latin-1")
