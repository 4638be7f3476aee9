"""One connection through a fault proxy: two streams of bytes, and what the mode of the moment does to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from typing import Protocol

from holdfast.sandbox.faults import Mode
from holdfast.sandbox.http_framing import Framer, Kind, Piece
from holdfast.sandbox.ports import HOST
from holdfast.sandbox.trails.watching import Sink, Watch

READ_LIMIT = 1 << 20
_READ_BYTES = 1 << 18
_THROTTLED_READ_SECONDS = 0.05
_DISCARD_SECONDS = 2.0
_RESET = struct.pack("ii", 1, 0)
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: 1\r\n"
    b"Content-Length: 20\r\nConnection: close\r\n\r\nService Unavailable\n"
)


class Bucket:
    """The pace of one direction of a throttled listener, shared by its connections: when the next byte may go."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def delay(self, size: int, bytes_per_second: float, now: float) -> float:
        """How long to wait before these bytes go, in seconds."""
        self._free_at = max(self._free_at, now) + size / bytes_per_second
        return self._free_at - now


class Port(Protocol):
    """What a connection needs of its listener."""

    mode: Mode
    changed: asyncio.Event
    upstream: int
    sending: Bucket
    answering: Bucket

    @property
    def recorder(self) -> Sink | None:
        """Keeps what passes."""


class Connection:
    """Passes one client's bytes on and the answers back."""

    def __init__(self, port: Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._port = port
        self._client_reader, self._client = reader, writer
        self._upstream: asyncio.StreamWriter | None = None
        methods: deque[bytes] = deque()
        self._requests = Framer(methods, is_response=False)
        self._responses = Framer(methods, is_response=True)
        self._task: asyncio.Task[None] | None = None
        self._busy = False
        #: Bytes of an answer were swallowed: the connection cannot be used again, whatever the mode is now.
        self._swallowed = False
        #: Where in the body of this answer the harm is done; ``None``: nowhere.
        self._harm_at: int | None = None
        self._watch = Watch(port.recorder, _peer(writer)) if port.recorder is not None else None
        self._ended_by_cloud = False

    def abort(self) -> None:
        """Reset both sides, now."""
        if self._task is not None:
            self._task.cancel()
        self._reset()

    def mode_changed(self) -> None:
        """A client whose answer was swallowed half-way must not be sent the rest of it."""
        if self._swallowed:
            self.abort()

    async def run(self) -> None:
        """Until one side ends it, or a mode does."""
        self._task = asyncio.current_task()
        try:
            await self._pass()
        except (OSError, asyncio.CancelledError):
            self._reset()
        finally:
            if self._watch is not None:
                self._watch.ended(by_cloud=self._ended_by_cloud)
            for writer in (self._client, self._upstream):
                if writer is not None:
                    with contextlib.suppress(OSError):
                        writer.close()

    def _reset(self) -> None:
        for writer in (self._client, self._upstream):
            if writer is not None:
                _reset(writer)

    async def _pass(self) -> None:
        _no_delay(self._client)
        await self._passable()
        reader, self._upstream = await asyncio.open_connection(HOST, self._port.upstream, limit=READ_LIMIT)
        _no_delay(self._upstream)
        forward = asyncio.create_task(self._forward(self._upstream))
        back = asyncio.create_task(self._back(reader))
        try:
            await asyncio.wait({forward, back}, return_when=asyncio.FIRST_COMPLETED)
            if self._busy or (back.done() and not back.cancelled() and back.exception() is not None):
                # After a 503 nothing of the other side is wanted; the rest of the request is still to be thrown away.
                back.cancel()
                if self._busy:
                    await forward
            elif forward.done() and forward.exception() is None:
                await back  # the client has sent all it will: its answer may still be on the way
            for task in (forward, back):
                if task.done() and not task.cancelled():
                    task.result()
        finally:
            forward.cancel()
            back.cancel()
            await asyncio.gather(forward, back, return_exceptions=True)

    async def _passable(self) -> Mode:
        """Wait out a black hole."""
        while self._port.mode.name == "blackhole":
            await self._port.changed.wait()
        return self._port.mode

    async def _forward(self, upstream: asyncio.StreamWriter) -> None:
        while True:
            await self._passable()
            data = await self._client_reader.read(self._read_bytes())
            mode = await self._passable()
            if not data:
                upstream.write_eof()
                return
            for piece in self._requests.feed(data):
                if self._watch is not None:
                    self._watch.request(piece)
                if mode.name == "http503" and piece.kind is Kind.HEAD:
                    await self._answer_busy()
                    return
                await self._send(upstream, piece, piece.data, mode, self._port.sending)

    async def _back(self, reader: asyncio.StreamReader) -> None:
        while True:
            await self._passable()
            data = await reader.read(self._read_bytes())
            mode = await self._passable()
            if not data:
                self._ended_by_cloud = True
                return
            self._swallowed = self._swallowed or mode.name == "half-open"
            for piece in self._responses.feed(data):
                # What the cloud answered, whatever becomes of it on the way.
                if self._watch is not None:
                    self._watch.response(piece)
                if self._swallowed:
                    continue
                harmed, cut = self._harm(piece, mode)
                await self._send(self._client, piece, harmed, mode, self._port.answering)
                if cut:
                    return

    def _read_bytes(self) -> int:
        """How much to read at once: little when throttled, so that bytes trickle and do not come in gushes."""
        mode = self._port.mode
        if mode.name != "throttle":
            return _READ_BYTES
        return max(1, min(_READ_BYTES, int(mode.amount * _THROTTLED_READ_SECONDS)))

    async def _send(self, writer: asyncio.StreamWriter, piece: Piece, data: bytes, mode: Mode, bucket: Bucket) -> None:
        if mode.name == "latency" and piece.kind in (Kind.HEAD, Kind.OPAQUE):
            # Half on the way there, half on the way back.
            await asyncio.sleep(mode.amount / 2000)
        elif mode.name == "throttle":
            await asyncio.sleep(bucket.delay(len(data), mode.amount, asyncio.get_running_loop().time()))
        if data:
            writer.write(data)
            await writer.drain()

    def _harm(self, piece: Piece, mode: Mode) -> tuple[bytes, bool]:
        """What a piece of an answer becomes, and whether the answer is cut off behind it.

        The harm is done in the middle of the body; at its first byte where the head does not tell the length.
        """
        if piece.kind is Kind.HEAD:
            has_body = not piece.ends_message and piece.content_length != 0
            harmful = mode.name in ("corrupt", "truncate") and has_body
            self._harm_at = (piece.content_length or 0) // 2 if harmful else None
            return piece.data, False
        at = self._harm_at
        if at is None or piece.kind is not Kind.BODY:
            return piece.data, False
        self._harm_at = at - len(piece.data)
        if at >= len(piece.data):
            return piece.data, False
        self._harm_at = None
        if mode.name == "truncate":
            return piece.data[:at], True
        if mode.name == "corrupt":
            harmed = bytearray(piece.data)
            harmed[at] ^= 0x01
            return bytes(harmed), False
        return piece.data, False

    async def _answer_busy(self) -> None:
        """503 to this request, then no more.

        What follows of the request is read and thrown away for a while: closing on unread bytes would reset the
        connection, and the answer would be lost with it.
        """
        self._busy = True
        if self._watch is not None:
            self._watch.refused(503)
        if self._upstream is not None:
            _reset(self._upstream)
        self._client.write(_BUSY)
        await self._client.drain()
        self._client.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while await self._client_reader.read(_READ_BYTES):
                    pass


def _peer(writer: asyncio.StreamWriter) -> str:
    name = writer.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else ""


def _no_delay(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset instead of an orderly end."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
