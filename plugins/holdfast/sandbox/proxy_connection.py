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

READ_LIMIT = 1 << 20
_READ = 1 << 18
_THROTTLED_READ_SECONDS = 0.05
_RESET = struct.pack("ii", 1, 0)
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: 1\r\n"
    b"Content-Length: 20\r\nConnection: close\r\n\r\nService Unavailable\n"
)


class Bucket:
    """The pace of a throttled listener, shared by its connections: when the next byte may go."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def reset(self) -> None:
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
    bucket: Bucket


class Connection:
    """Passes one client's bytes on and the answers back."""

    def __init__(self, port: Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._port = port
        self._client_reader, self._client = reader, writer
        self._upstream: asyncio.StreamWriter | None = None
        self._methods: deque[bytes] = deque()
        self._requests = Framer(self._methods, is_response=False)
        self._responses = Framer(self._methods, is_response=True)
        #: Bytes of an answer were swallowed: the connection cannot be used again, whatever the mode is now.
        self._doomed = False
        self._hurt_at: int | None = None  # truncate: bytes of this body that still go through
        self._tasks: list[asyncio.Task[None]] = []

    def abort(self) -> None:
        """Reset both sides."""
        for task in self._tasks:
            task.cancel()
        for writer in (self._client, self._upstream):
            if writer is not None:
                _reset(writer)

    async def run(self) -> None:
        """Until one side ends it, or a mode does."""
        _no_delay(self._client)
        try:
            await self._passable()
            try:
                upstream_reader, self._upstream = await asyncio.open_connection(
                    HOST, self._port.upstream, limit=READ_LIMIT
                )
            except OSError:
                self.abort()
                return
            _no_delay(self._upstream)
            self._tasks = [
                asyncio.create_task(self._forward(self._upstream)),
                asyncio.create_task(self._back(upstream_reader)),
            ]
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._tasks[0] in done and self._tasks[0].exception() is None:
                # The client has sent all it will: its answer may still be on the way.
                await asyncio.wait(self._tasks)
            if any(not task.cancelled() and task.exception() is not None for task in self._tasks if task.done()):
                self.abort()
        except (OSError, asyncio.CancelledError):
            self.abort()
        finally:
            for task in self._tasks:
                task.cancel()
            for writer in (self._client, self._upstream):
                if writer is not None:
                    with contextlib.suppress(OSError):
                        writer.close()

    async def _passable(self) -> Mode:
        """Wait out a black hole."""
        while self._port.mode.name == "blackhole":
            await self._port.changed.wait()
        return self._port.mode

    async def _forward(self, upstream: asyncio.StreamWriter) -> None:
        while True:
            await self._passable()
            data = await self._client_reader.read(self._read_size())
            mode = await self._passable()
            if not data:
                if upstream.can_write_eof():
                    upstream.write_eof()
                return
            for piece in self._requests.feed(data):
                if mode.name == "http503" and piece.kind is Kind.HEAD:
                    await self._answer_busy()
                    return
                if mode.name == "latency" and piece.kind in (Kind.HEAD, Kind.OPAQUE):
                    await asyncio.sleep(mode.amount / 2000)
                await self._send(upstream, piece.data, mode)

    async def _back(self, reader: asyncio.StreamReader) -> None:
        while True:
            await self._passable()
            data = await reader.read(self._read_size())
            mode = await self._passable()
            if not data:
                return
            if mode.name == "half-open" or self._doomed:
                await self._swallow(data)
                continue
            for piece in self._responses.feed(data):
                if mode.name == "latency" and piece.kind in (Kind.HEAD, Kind.OPAQUE):
                    await asyncio.sleep(mode.amount / 2000)
                hurt = self._hurt(piece, mode)
                if hurt is not None:
                    await self._send(self._client, hurt, mode)
                if hurt is None or (self._hurt_at is not None and self._hurt_at <= 0):
                    await self._cut()
                    return

    def _read_size(self) -> int:
        mode = self._port.mode
        return max(1, min(_READ, int(mode.amount * _THROTTLED_READ_SECONDS))) if mode.name == "throttle" else _READ

    async def _send(self, writer: asyncio.StreamWriter, data: bytes, mode: Mode) -> None:
        if mode.name == "throttle":
            await asyncio.sleep(self._port.bucket.delay(len(data), mode.amount, asyncio.get_running_loop().time()))
        writer.write(data)
        await writer.drain()

    def _hurt(self, piece: Piece, mode: Mode) -> bytes | None:
        """What a piece of an answer becomes; ``None``: nothing of it, and the connection ends."""
        if piece.kind is Kind.HEAD:
            length = piece.content_length
            self._hurt_at = None
            if mode.name in ("corrupt", "truncate") and length != 0:
                self._hurt_at = (length or 2) // 2
            return piece.data
        if self._hurt_at is None or piece.kind is not Kind.BODY:
            return piece.data
        at, size = self._hurt_at, len(piece.data)
        if mode.name == "truncate":
            self._hurt_at = at - size
            return piece.data[:at] if size > at else piece.data
        if mode.name == "corrupt" and at >= 0:
            self._hurt_at = at - size if at >= size else None
            if at < size:
                flipped = bytearray(piece.data)
                flipped[at] ^= 0x01
                return bytes(flipped)
        return piece.data

    async def _answer_busy(self) -> None:
        """503 to this request, then no more: what follows of it is thrown away so that the answer is not lost in a reset."""
        for task in self._tasks[1:]:
            task.cancel()
        if self._upstream is not None:
            _reset(self._upstream)
        self._client.write(_BUSY)
        await self._client.drain()
        self._client.write_eof()
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(2.0):
                while await self._client_reader.read(_READ):
                    pass

    async def _swallow(self, data: bytes) -> None:
        """Half-open: the answer is read and never passed on; when that ends, so does the connection."""
        self._doomed = True
        if self._port.mode.name != "half-open":
            raise ConnectionResetError

    async def _cut(self) -> None:
        with contextlib.suppress(OSError):
            await self._client.drain()
            self._client.write_eof()


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
