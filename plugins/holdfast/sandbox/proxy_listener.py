"""One port of a fault proxy."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from holdfast.sandbox.faults import UP, Mode
from holdfast.sandbox.ports import HOST
from holdfast.sandbox.proxy_connection import READ_LIMIT, Bucket, Connection
from holdfast.sandbox.trails.recording import Recorder


class Listener:
    """Accepts connections on a port and passes them on, in the mode it is in.

    A listener that is down really refuses: it stops listening. A second socket that is bound to the port and never
    listens keeps others from taking it meanwhile.

    Args:
        recorder: keeps what passes; without one nothing is kept.
    """

    def __init__(self, name: str, port: int, upstream: int, recorder: Recorder | None = None) -> None:
        self.name = name
        self.port = port
        self.upstream = upstream
        self.recorder = recorder
        self.mode = UP
        self.changed = asyncio.Event()
        self.sending, self.answering = Bucket(), Bucket()
        self._holder: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._accepted = 0

    async def open(self, mode: Mode) -> None:
        """Take the port. Raises OSError when another process has it."""
        self._holder = self._bind()
        self.mode = mode
        if mode.name != "down":
            await self._listen()

    async def set_mode(self, mode: Mode) -> None:
        """Switch live; connections that are open obey too."""
        if mode == self.mode:
            return
        self.mode = mode
        self.sending, self.answering = Bucket(), Bucket()
        self.changed.set()
        self.changed = asyncio.Event()
        for connection in list(self._connections):
            connection.mode_changed()
        if mode.name == "down":
            if self._server is not None:
                self._server.close()
                self._server = None
            self.drop_connections()
        elif self._server is None:
            await self._listen()

    def drop_connections(self) -> None:
        """Reset everything that is open."""
        for connection in list(self._connections):
            connection.abort()

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.mode.as_dict(),
            "port": self.port,
            "upstream": self.upstream,
            "connections": len(self._connections),
            "accepted": self._accepted,
            **({} if self.recorder is None else {"trail": self.recorder.as_dict()}),
        }

    def _bind(self) -> socket.socket:
        bound = socket.socket()
        # Shared among this user's sockets that ask for it, and closed to everybody who merely reuses addresses.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((HOST, self.port))
        return bound

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=self._bind(), limit=READ_LIMIT, backlog=512)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, reader, writer)
        self._connections.add(connection)
        self._accepted += 1
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
