"""Resumable uploads of the JSON API, https://cloud.google.com/storage/docs/performing-resumable-uploads.

A session's bytes are appended to its content file; how many of them are durable is recorded in the
database, and nothing beyond that is ever reported to a client. After a crash the file is cut back to what
was recorded and the client goes on from there. What arrived before a connection broke is kept, as in Google
Cloud Storage down to a multiple of 256 KiB.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from holdfast.sandbox.gcs.blobs import CHUNK_BYTES, BlobStore, Content, write_all
from holdfast.sandbox.gcs.checksums import Hasher, expected_checksums, verify
from holdfast.sandbox.gcs.context import Context
from holdfast.sandbox.gcs.database import Transaction
from holdfast.sandbox.gcs.errors import GcsError, conflict, invalid, no_upload, not_implemented
from holdfast.sandbox.gcs.names import check_object_name
from holdfast.sandbox.gcs.preconditions import Preconditions
from holdfast.sandbox.gcs.records import ObjectRecord
from holdfast.sandbox.gcs.resources import object_fields
from holdfast.sandbox.gcs.storage import Body, Storage

GRANULE_BYTES = 256 * 1024
# How much may arrive before progress is recorded: a crash in a long request loses no more than this.
RECORD_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Session:
    """An upload session as recorded.

    Attributes:
        id: names it in the session URI; also the name of its content file.
        bucket: of the object to be.
        name: of the object to be.
        state: ``open``, ``done`` or ``cancelled``.
        received_bytes: how much is durable.
        request: what the start of the session asked for.
        generation: of the object it became.
    """

    id: str
    bucket: str
    name: str
    state: str
    received_bytes: int
    request: dict[str, Any]
    generation: int | None


async def start(context: Context, check: Callable[[], None]) -> Response:
    """``POST`` or ``PUT`` with ``uploadType=resumable``: start a session, or go on with the one named."""
    if "upload_id" in context.query:
        if context.request.method == "DELETE":
            return await _cancel(context)
        return await _continue(context)
    if context.request.method != "POST":
        raise invalid("A resumable upload is started by a POST.")
    check()
    storage = context.storage
    resource = await context.resource()
    bucket = storage.bucket(context.path["bucket"])
    name = check_object_name(context.query.get("name") or resource.get("name"))
    if "x-upload-content-type" in context.headers and "contentType" not in resource:
        resource["contentType"] = context.headers["x-upload-content-type"]
    if context.query.get("contentEncoding"):
        resource["contentEncoding"] = context.query["contentEncoding"]
    preconditions = Preconditions.from_query(context.query)
    storage.check_put(bucket.name, name, preconditions)
    total = context.headers.get("x-upload-content-length")
    request = {
        "fields": object_fields(resource, bucket=bucket),
        "expected": expected_checksums(context.headers, resource),
        "preconditions": preconditions.as_dict(),
        "total_bytes": int(total) if total and total.isdecimal() else None,
    }
    session_id = secrets.token_hex(16)
    row = (session_id, bucket.name, name, json.dumps(request))
    await storage.database.change(
        lambda tx: tx.execute("INSERT INTO session VALUES (?, ?, ?, 'open', 0, ?, NULL)", row)
    )
    location = f"{context.base_url}{context.request.url.path}?uploadType=resumable&upload_id={session_id}"
    return Response(headers={"Location": location, "X-GUploader-UploadID": session_id})


async def _cancel(context: Context) -> Response:
    storage = context.storage
    session = _find(storage, context.query["upload_id"])

    def change(tx: Transaction) -> None:
        tx.execute("UPDATE session SET state = 'cancelled' WHERE id = ? AND state = 'open'", (session.id,))

    await storage.database.change(change)
    if session.state == "open":
        writers_of(storage).forget(session.id)
        storage.blobs.remove([session.id])
    return Response(status_code=499)


async def _continue(context: Context) -> Response:
    storage = context.storage
    session = _find(storage, context.query["upload_id"])
    if session.state == "cancelled":
        raise GcsError(499, "clientClosedRequest", "The upload was cancelled.", xml_code="ClientClosedRequest")
    span = _Span.parse(context)
    if session.state == "done":
        return await _answer_done(context, session, span)
    if span.total_bytes is not None and session.request["total_bytes"] not in (None, span.total_bytes):
        raise invalid(
            f"Content-Range: the upload was announced with {session.request['total_bytes']} bytes, now with"
            f" {span.total_bytes}."
        )
    writer = writers_of(storage).take(session.id)
    received = await asyncio.to_thread(writer.open, session.received_bytes)
    if span.start is None:
        if span.total_bytes is not None and span.total_bytes == received:
            return await _finalise(context, session, writer, received)
        return _incomplete(received)
    if span.start > received:
        raise invalid(
            f"Content-Range starts at byte {span.start}, but only {received} bytes were received; ask for the status with"
            " 'Content-Range: bytes */*' and go on from there."
        )
    received = await _receive(context, session, writer, span, received)
    if span.total_bytes is not None and received == span.total_bytes:
        return await _finalise(context, session, writer, received)
    return _incomplete(received)


async def _receive(context: Context, session: Session, writer: _Writer, span: _Span, received: int) -> int:
    """Append what the request carries; returns how many bytes are durable then."""
    storage = context.storage
    assert span.start is not None
    skip = received - span.start
    position, recorded = received, received
    buffer = bytearray()
    whole = False
    try:
        async for data in context.request.stream():
            if skip:
                dropped = min(skip, len(data))
                data, skip = data[dropped:], skip - dropped
            buffer += data
            if span.end is not None and position + len(buffer) > span.end:
                raise invalid("The request carries more bytes than its Content-Range says.")
            if len(buffer) >= CHUNK_BYTES:
                await asyncio.to_thread(writer.append, bytes(buffer))
                position += len(buffer)
                buffer = bytearray()
                if position - recorded >= RECORD_BYTES:
                    recorded = await _record(storage, session, writer, position)
        whole = True
    except ClientDisconnect:
        pass
    if buffer:
        await asyncio.to_thread(writer.append, bytes(buffer))
        position += len(buffer)
    if whole and span.end is None:
        span = replace(span, end=position, total_bytes=position)
    if whole and span.end is not None and position != span.end:
        raise invalid(f"Content-Range: expected bytes up to {span.end - 1}, the request ended at {position - 1}.")
    final = whole and span.total_bytes == position
    durable = position if final else max(position - position % GRANULE_BYTES, recorded)
    if durable < position:
        await asyncio.to_thread(writer.truncate, durable)
    await _record(storage, session, writer, durable)
    return durable


async def _record(storage: Storage, session: Session, writer: _Writer, position: int) -> int:
    await asyncio.to_thread(writer.make_durable)

    def change(tx: Transaction) -> None:
        tx.execute("UPDATE session SET received_bytes = ? WHERE id = ? AND state = 'open'", (position, session.id))

    await storage.database.change(change)
    return position


async def _finalise(context: Context, session: Session, writer: _Writer, size_bytes: int) -> Response:
    storage = context.storage
    hasher = await asyncio.to_thread(writer.hash)
    content = Content(session.id, size_bytes, None, hasher.digest())
    expected = {**session.request["expected"], **expected_checksums(context.headers)}

    def change(tx: Transaction) -> ObjectRecord:
        state = tx.execute("SELECT state, result FROM session WHERE id = ?", (session.id,)).fetchone()
        if state["state"] != "open":
            raise conflict("The upload was finished or cancelled by another request.", xml_code="Conflict")
        preconditions = Preconditions.from_dict(session.request["preconditions"])
        fields = session.request["fields"]
        record = storage.insert(tx, session.bucket, session.name, Body.of(content), fields, preconditions)
        tx.execute(
            "UPDATE session SET state = 'done', received_bytes = ?, result = ? WHERE id = ?",
            (size_bytes, str(record.generation), session.id),
        )
        return record

    try:
        verify(expected, content.checksums)
    except GcsError:
        # The bytes are not what was announced, and there is no way to take them back: the session ends here.
        await _cancel(context)
        raise
    record = await storage.database.change(change)
    writers_of(storage).forget(session.id)
    return context.json(context.object(record))


async def _answer_done(context: Context, session: Session, span: _Span) -> Response:
    """A finished upload answers with its object again, so that a lost response can be asked for."""
    async for _ in context.request.stream():
        pass
    if span.total_bytes is not None and span.total_bytes != session.received_bytes:
        raise invalid(f"The upload is finished with {session.received_bytes} bytes.")
    record = context.storage.find(session.bucket, session.name, session.generation)
    return context.json(context.object(record))


def _incomplete(received: int) -> Response:
    headers = {"Range": f"bytes=0-{received - 1}"} if received else {}
    return Response(status_code=308, headers={**headers, "X-HTTP-Status-Code-Override": "308"})


def _find(storage: Storage, session_id: str) -> Session:
    row = storage.database.reader().execute("SELECT * FROM session WHERE id = ?", (session_id,)).fetchone()
    if row is None:
        raise no_upload(session_id)
    generation = int(row["result"]) if row["result"] else None
    return Session(
        row["id"],
        row["bucket"],
        row["name"],
        row["state"],
        row["received_bytes"],
        json.loads(row["request"]),
        generation,
    )


@dataclass(frozen=True)
class _Span:
    """What part of the upload a request carries.

    Attributes:
        start: first byte, or None when the request only asks for the status.
        end: one behind the last byte, when known.
        total_bytes: of the whole upload, when known.
    """

    start: int | None
    end: int | None
    total_bytes: int | None

    @classmethod
    def parse(cls, context: Context) -> _Span:
        header = context.headers.get("content-range")
        if header is None:
            if context.headers.get("transfer-encoding"):
                return cls(0, None, None)
            length = int(context.headers.get("content-length", "0"))
            return cls(0, length, length)
        match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(?:(\d+)|\*)", header.strip())
        if match is None:
            raise invalid(f"Content-Range: expected 'bytes A-B/N', 'bytes A-B/*' or 'bytes */N', found {header!r}.")
        total = int(match[3]) if match[3] else None
        if match[1] is None:
            return cls(None, None, total)
        start, end = int(match[1]), int(match[2]) + 1
        if end <= start or (total is not None and end > total):
            raise invalid(f"Content-Range: {header!r} is no range.")
        return cls(start, end, total)


class _Writer:
    """The open content file of a session, with the checksums of what it holds.

    A request that comes while an older one of the same session still hangs takes over: the older one
    finds its writer stale at its next write.
    """

    def __init__(self, blobs: BlobStore, session_id: str, before: _Writer | None) -> None:
        self._blobs = blobs
        self._path = blobs.path(session_id)
        self._lock = threading.Lock() if before is None else before._lock
        self._before = before
        self._hasher: Hasher | None = None
        self._size_bytes = 0
        self.stale = False

    def open(self, received: int) -> int:
        """Cut the file back to what is recorded; returns that length."""
        with self._lock:
            self._check()
            before, self._before = self._before, None
            self._path.touch()
            with self._path.open("r+b", buffering=0) as file:
                file.truncate(received)
            self._size_bytes = received
            if received == 0:
                self._hasher = Hasher()
            elif before is not None and before._hasher is not None and before._hasher.size_bytes == received:
                self._hasher = before._hasher
            if before is not None:
                before._hasher = None
            return received

    def append(self, data: bytes) -> None:
        """Write the next bytes."""
        with self._lock:
            self._check()
            with self._path.open("r+b", buffering=0) as file:
                file.seek(self._size_bytes)
                write_all(file, data)
            self._size_bytes += len(data)
            if self._hasher is not None:
                self._hasher.update(data)

    def truncate(self, size_bytes: int) -> None:
        """Forget what lies behind `size_bytes`."""
        with self._lock:
            self._check()
            with self._path.open("r+b", buffering=0) as file:
                file.truncate(size_bytes)
            self._size_bytes = size_bytes
            self._hasher = None

    def make_durable(self) -> None:
        """Sync the file and its folder entry."""
        with self._lock:
            self._check()
            with self._path.open("r+b", buffering=0) as file:
                self._blobs.make_durable(file)

    def hash(self) -> Hasher:
        """The checksums of the whole; read again when a restart or a cut lost count."""
        with self._lock:
            self._check()
            if self._hasher is None:
                self._hasher = Hasher()
                with self._path.open("rb", buffering=0) as file:
                    while data := file.read(CHUNK_BYTES):
                        self._hasher.update(data)
            return self._hasher

    def _check(self) -> None:
        if self.stale:
            raise conflict("Another request goes on with this upload.", xml_code="Conflict")


class Writers:
    """The sessions in use, so that a later request finds the checksums of an earlier one."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._writers: dict[str, _Writer] = {}

    def take(self, session_id: str) -> _Writer:
        """A writer for a new request; the one before becomes stale."""
        before = self._writers.get(session_id)
        if before is not None:
            before.stale = True
        writer = self._writers[session_id] = _Writer(self._blobs, session_id, before)
        return writer

    def forget(self, session_id: str) -> None:
        """The session is over."""
        writer = self._writers.pop(session_id, None)
        if writer is not None:
            writer.stale = True


def writers_of(storage: Storage) -> Writers:
    """The writers of a storage; made at first use."""
    writers = getattr(storage, "resumable_writers", None)
    if writers is None:
        writers = storage.resumable_writers = Writers(storage.blobs)  # type: ignore[attr-defined]  # made here only
    assert isinstance(writers, Writers)
    return writers


__all__ = ["GRANULE_BYTES", "start", "not_implemented"]
