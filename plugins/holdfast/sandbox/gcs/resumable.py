"""Resumable uploads of the JSON API, https://cloud.google.com/storage/docs/performing-resumable-uploads.

What arrived before a connection broke is kept, as in Google Cloud Storage down to a multiple of 256 KiB.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from holdfast.sandbox.gcs.blobs import CHUNK_BYTES, Content
from holdfast.sandbox.gcs.checksums import expected_checksums, verify
from holdfast.sandbox.gcs.context import Context
from holdfast.sandbox.gcs.database import Transaction
from holdfast.sandbox.gcs.errors import GcsError, invalid
from holdfast.sandbox.gcs.names import check_object_name
from holdfast.sandbox.gcs.object_resource import new_object_fields, object_resource
from holdfast.sandbox.gcs.preconditions import Preconditions
from holdfast.sandbox.gcs.sessions import Session, SessionFile
from holdfast.sandbox.gcs.storage import Body

GRANULE_BYTES = 256 * 1024
# How much may arrive before progress is recorded: a crash in a long request loses no more than this.
RECORD_BYTES = 16 * 1024 * 1024


async def start(context: Context, check_parameters: Callable[[], None]) -> Response:
    """``POST`` with ``uploadType=resumable``: a new session, whose URI is in the ``Location`` header."""
    check_parameters()
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
        "fields": new_object_fields(resource, bucket),
        "expected": expected_checksums(context.headers, resource),
        "preconditions": preconditions.as_dict(),
        "total_bytes": int(total) if total and total.isdecimal() else None,
    }
    session_id = await storage.sessions.create(bucket.name, name, request, storage.now_us())
    location = f"{context.base_url}{context.request.url.path}?uploadType=resumable&upload_id={session_id}"
    return Response(headers={"Location": location, "X-GUploader-UploadID": session_id})


async def go_on(context: Context) -> Response:
    """A request to a session URI: bytes, a question for the status, or the end of it."""
    sessions, session_id = context.storage.sessions, context.query["upload_id"]
    if context.request.method == "DELETE":
        sessions.find(session_id)
        await sessions.cancel(session_id)
        return Response(status_code=499)
    span = _Span.parse(context)
    session, file = await sessions.take(session_id)
    if session.state != "open":
        sessions.forget(session_id)
        return await _answer_ended(context, session, span)
    announced = session.request["total_bytes"]
    if span.total_bytes is not None and announced not in (None, span.total_bytes):
        raise invalid(f"Content-Range: {announced} bytes were announced in all, now {span.total_bytes}.")
    received = session.received_bytes
    if span.start is not None:
        received = await _receive(context, session, file, span)
        if span.end is None:
            span = _Span(0, received, received)
    if span.total_bytes is not None and received == span.total_bytes:
        return await _finalise(context, session, file, received)
    headers = {"Range": f"bytes=0-{received - 1}"} if received else {}
    if context.headers.get("x-guploader-no-308") == "yes":  # Google's Go client, for which 308 is a redirect
        return Response(headers={**headers, "X-HTTP-Status-Code-Override": "308"})
    return Response(status_code=308, headers=headers)


async def _receive(context: Context, session: Session, file: SessionFile, span: _Span) -> int:
    """Append what the request carries; returns how many bytes of the upload are durable then."""
    assert span.start is not None
    received = session.received_bytes
    if span.start > received:
        raise invalid(
            f"Content-Range starts at byte {span.start}, but only {received} bytes were received; ask for the status"
            " with 'bytes */*' and go on from there."
        )
    carried = context.headers.get("content-length", "")
    if span.end is not None and carried.isdecimal() and int(carried) != span.end - span.start:
        raise invalid(f"Content-Range names {span.end - span.start} bytes, the request carries {carried}.")
    intake = _Intake(context, session, file, skip_bytes=received - span.start)
    try:
        async for data in context.request.stream():
            await intake.add(data)
    except ClientDisconnect:
        # Nobody hears the answer; what arrived is kept for the next request.
        return await intake.settle(whole=False)
    if span.end is not None and intake.arrived_to != span.end:
        raise invalid(f"Content-Range: expected bytes up to {span.end - 1}, found them up to {intake.arrived_to - 1}.")
    return await intake.settle(whole=span.end is None or span.end == span.total_bytes)


class _Intake:
    """Appends a request's bytes to a session's file, in chunks, and records progress now and then."""

    def __init__(self, context: Context, session: Session, file: SessionFile, skip_bytes: int) -> None:
        self._sessions = context.storage.sessions
        self._session = session
        self._file = file
        # Google ignores bytes it holds already.
        self._skip_bytes = skip_bytes
        self._buffer = bytearray()
        self._written_to = self._recorded_to = session.received_bytes

    @property
    def arrived_to(self) -> int:
        """One behind the last byte of the upload that has arrived."""
        return self._written_to + len(self._buffer) - self._skip_bytes

    async def add(self, data: bytes) -> None:
        """Take the next bytes of the request."""
        dropped = min(self._skip_bytes, len(data))
        self._skip_bytes -= dropped
        self._buffer += data[dropped:]
        if len(self._buffer) >= CHUNK_BYTES:
            await self._write()
            if self._written_to - self._recorded_to >= RECORD_BYTES:
                await self._record(self._written_to)

    async def settle(self, *, whole: bool) -> int:
        """Record what is kept: all of it when that is the whole upload, else whole granules only."""
        await self._write()
        kept = self._written_to
        if not whole:
            kept = max(kept - kept % GRANULE_BYTES, self._recorded_to)
        await self._record(kept)
        return kept

    async def _write(self) -> None:
        if self._buffer:
            await asyncio.to_thread(self._file.append, bytes(self._buffer))
            self._written_to += len(self._buffer)
            self._buffer = bytearray()

    async def _record(self, size_bytes: int) -> None:
        await self._sessions.record(self._session, self._file, size_bytes)
        self._recorded_to = size_bytes


async def _finalise(context: Context, session: Session, file: SessionFile, size_bytes: int) -> Response:
    storage = context.storage
    content = Content(session.id, size_bytes, None, await asyncio.to_thread(file.checksums))
    bucket = storage.bucket(session.bucket)
    try:
        verify({**session.request["expected"], **expected_checksums(context.headers)}, content.checksums)
    except GcsError:
        # The bytes are not what was announced, and there is no way to take them back: the session ends here.
        await storage.sessions.cancel(session.id)
        raise

    def change(tx: Transaction) -> dict[str, Any]:
        preconditions = Preconditions.from_dict(session.request["preconditions"])
        fields = session.request["fields"]
        record = storage.insert(tx, session.bucket, session.name, Body.of(content), fields, preconditions)
        resource = object_resource(record, bucket, context.base_url)
        storage.sessions.finish(tx, session, file, content, json.dumps(resource))
        return resource

    resource = await storage.database.change(change)
    storage.sessions.forget(session.id)
    return context.json(resource)


async def _answer_ended(context: Context, session: Session, span: _Span) -> Response:
    """A finished upload answers with its object again, so that a lost response can be asked for."""
    async for _ in context.request.stream():
        pass
    if session.result is None:
        raise GcsError(499, "clientClosedRequest", "The upload was cancelled.", xml_code="ClientClosedRequest")
    if span.total_bytes not in (None, session.received_bytes):
        raise invalid(f"The upload is finished with {session.received_bytes} bytes.")
    return context.json(session.result)


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
        """From ``Content-Range``; without it the request carries everything."""
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
        first, end = int(match[1]), int(match[2]) + 1
        if end <= first or (total is not None and end > total):
            raise invalid(f"Content-Range: {header!r} is no range.")
        return cls(first, end, total)
