"""Sessions of resumable uploads: what is recorded of them, and who may write.

A session's bytes are appended to its content file; how many of them are durable is recorded in the
database, and nothing beyond that is ever reported to a client. After a crash the file is cut back to what
was recorded and the client goes on from there.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
import threading
from dataclasses import dataclass
from typing import Any

from holdfast.sandbox.gcs.blobs import CHUNK_BYTES, BlobStore, Content, write_all
from holdfast.sandbox.gcs.checksums import Checksums, Hasher
from holdfast.sandbox.gcs.database import Database, Transaction
from holdfast.sandbox.gcs.errors import GcsError, no_upload, unavailable

# Google forgets a session after a week.
LIFETIME_US = 7 * 24 * 3600 * 1_000_000


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
        result: the resource of the object it became.
    """

    id: str
    bucket: str
    name: str
    state: str
    received_bytes: int
    request: dict[str, Any]
    result: dict[str, Any] | None

    @classmethod
    def find(cls, connection: Any, session_id: str) -> Session:
        """The session of that id; 404 when there is none."""
        row = connection.execute("SELECT * FROM session WHERE id = ?", (session_id,)).fetchone()
        if row is None:
            raise no_upload(session_id)
        return cls(
            row["id"],
            row["bucket"],
            row["name"],
            row["state"],
            row["received_bytes"],
            json.loads(row["request"]),
            json.loads(row["result"]) if row["result"] else None,
        )


class SessionFile:
    """The content file of a session in the hands of one request, with the checksums of what it holds.

    A request that comes while an older one of the same session still hangs takes over: the older one is
    refused at its next step, on the file as in the database.
    """

    def __init__(self, blobs: BlobStore, session_id: str, before: SessionFile | None) -> None:
        self._blobs = blobs
        self._path = blobs.path(session_id)
        self._lock: threading.Lock = threading.Lock() if before is None else before._lock
        self._before = before
        self._hasher: Hasher | None = None
        self._size_bytes = 0
        self._stale = False

    def give_up(self) -> None:
        """Another request takes over, or the session is over."""
        self._stale = True

    def check(self) -> None:
        """503 when another request took over: whoever still wants to go on asks for the status again."""
        if self._stale:
            raise unavailable("Another request goes on with this upload; ask for its status.")

    def open(self, received_bytes: int) -> None:
        """Cut the file back to what is recorded."""
        with self._lock:
            self.check()
            before, self._before = self._before, None
            self._blobs.create(self._path.name)
            with self._path.open("r+b", buffering=0) as file:
                file.truncate(received_bytes)
            self._size_bytes = received_bytes
            if received_bytes == 0:
                self._hasher = Hasher()
            elif before is not None and before._hasher is not None and before._hasher.size_bytes == received_bytes:
                self._hasher = before._hasher
            if before is not None:
                before._hasher = None

    def append(self, data: bytes) -> None:
        """Write the next bytes."""
        with self._lock:
            self.check()
            with self._path.open("r+b", buffering=0) as file:
                file.seek(self._size_bytes)
                write_all(file, data)
            self._size_bytes += len(data)
            if self._hasher is not None:
                self._hasher.update(data)

    def settle(self, size_bytes: int) -> None:
        """Forget what lies behind `size_bytes` and make the rest durable."""
        with self._lock:
            self.check()
            with self._path.open("r+b", buffering=0) as file:
                if size_bytes < self._size_bytes:
                    file.truncate(size_bytes)
                    self._size_bytes = size_bytes
                    self._hasher = None
                self._blobs.make_durable(file)

    def checksums(self) -> Checksums:
        """Of the whole; read again when a restart or a cut lost count."""
        with self._lock:
            self.check()
            if self._hasher is None:
                self._hasher = Hasher()
                with self._path.open("rb", buffering=0) as file:
                    while data := file.read(CHUNK_BYTES):
                        self._hasher.update(data)
            return self._hasher.digest()


class Sessions:
    """All sessions of a storage.

    Args:
        database: where they are recorded.
        blobs: where their bytes go.
    """

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        self._files: dict[str, SessionFile] = {}

    async def create(self, bucket: str, name: str, request: dict[str, Any], now_us: int) -> str:
        """Record a new session; returns its id."""
        session_id = secrets.token_hex(16)
        row = (session_id, bucket, name, json.dumps(request), now_us)
        await self._database.change(
            lambda tx: tx.execute("INSERT INTO session VALUES (?, ?, ?, 'open', 0, ?, NULL, ?)", row)
        )
        return session_id

    def find(self, session_id: str) -> Session:
        """The session of that id; 404 when there is none."""
        return Session.find(self._database.reader(), session_id)

    async def take(self, session_id: str) -> tuple[Session, SessionFile]:
        """An open session for a request to write to; an older request that holds it loses it."""
        before = self._files.get(session_id)
        file = self._files[session_id] = SessionFile(self._blobs, session_id, before)
        if before is None:
            try:
                session = self.find(session_id)
            except GcsError:
                self.forget(session_id)
                raise
        else:
            before.give_up()
            # Through the writer's queue: behind whatever the older request had recorded by now.
            session = await self._database.change(lambda tx: Session.find(tx, session_id))
        if session.state == "open":
            await asyncio.to_thread(file.open, session.received_bytes)
        return session, file

    async def record(self, session: Session, file: SessionFile, size_bytes: int) -> None:
        """Make so many bytes durable and record them."""
        await asyncio.to_thread(file.settle, size_bytes)

        def change(tx: Transaction) -> None:
            file.check()
            tx.execute(
                "UPDATE session SET received_bytes = ? WHERE id = ? AND state = 'open'", (size_bytes, session.id)
            )

        await self._database.change(change)

    def finish(self, tx: Transaction, session: Session, file: SessionFile, content: Content, resource: str) -> None:
        """Mark a session as done, in the transaction that makes its object; refused to a request that lost it."""
        file.check()
        if Session.find(tx, session.id).state != "open":
            raise unavailable("The upload was finished or cancelled by another request; ask for its status.")
        tx.execute(
            "UPDATE session SET state = 'done', received_bytes = ?, result = ? WHERE id = ?",
            (content.size_bytes, resource, session.id),
        )

    def forget(self, session_id: str) -> None:
        """No request of this session goes on."""
        file = self._files.pop(session_id, None)
        if file is not None:
            file.give_up()

    async def cancel(self, session_id: str) -> None:
        """End a session; its bytes are removed."""

        def change(tx: Transaction) -> bool:
            session = Session.find(tx, session_id)
            if session.state == "open":
                tx.execute("UPDATE session SET state = 'cancelled' WHERE id = ?", (session_id,))
            return session.state == "open"

        if await self._database.change(change):
            self.forget(session_id)
            self._blobs.remove([session_id])


def forget_old_sessions(connection: sqlite3.Connection, now_us: int) -> set[str]:
    """Drop the sessions that are too old to go on with; returns the ids of those that are open."""
    connection.execute("DELETE FROM session WHERE created_us < ?", (now_us - LIFETIME_US,))
    return {row["id"] for row in connection.execute("SELECT id FROM session WHERE state = 'open'")}
