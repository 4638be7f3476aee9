"""The metadata database: one SQLite file, one writer thread that commits in groups.

Every change is a function run inside the writer's transaction, so a precondition and the change it
guards are one atomic step, whoever races. Changes that queue up while a commit is being synced share
the next one: the price of a sync to disk is paid per group, not per request. A caller hears of its
change only after the commit that holds it.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bucket (
    name TEXT PRIMARY KEY, project TEXT NOT NULL, generation INTEGER NOT NULL, metageneration INTEGER NOT NULL,
    created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL, fields TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS object (
    id INTEGER PRIMARY KEY, bucket TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL,
    metageneration INTEGER NOT NULL, live INTEGER NOT NULL, size_bytes INTEGER NOT NULL, crc32c TEXT NOT NULL,
    md5 TEXT, component_count INTEGER, created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL, deleted_us INTEGER,
    hold_released_us INTEGER, fields TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS object_generation ON object (bucket, name, generation);
CREATE UNIQUE INDEX IF NOT EXISTS object_live ON object (bucket, name) WHERE live = 1;
CREATE TABLE IF NOT EXISTS blob (id TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, data BLOB);
CREATE TABLE IF NOT EXISTS segment (
    object INTEGER NOT NULL, position INTEGER NOT NULL, blob TEXT NOT NULL, PRIMARY KEY (object, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS segment_blob ON segment (blob);
CREATE TABLE IF NOT EXISTS session (
    id TEXT PRIMARY KEY, bucket TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL, received_bytes INTEGER NOT NULL,
    request TEXT NOT NULL, result TEXT, created_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS multipart (
    id TEXT PRIMARY KEY, bucket TEXT NOT NULL, name TEXT NOT NULL, created_us INTEGER NOT NULL, fields TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS part (
    upload TEXT NOT NULL, number INTEGER NOT NULL, blob TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    crc32c TEXT NOT NULL, md5 TEXT NOT NULL, written_us INTEGER NOT NULL, PRIMARY KEY (upload, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS part_blob ON part (blob);
"""


class Database:
    """SQLite in WAL mode with grouped commits.

    Args:
        path: the database file; created when absent.
        sync: sync every commit to disk before it is acknowledged. Without it an acknowledged change
            survives the death of the process but not that of the machine.
        on_garbage: called after a commit, on the writer's thread, with the ids of content files that
            this commit left without a user.
    """

    def __init__(self, path: Path, *, sync: bool, on_garbage: Callable[[list[str]], None]) -> None:
        self._path = path
        self._sync = sync
        self._on_garbage = on_garbage
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._queue: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._writer = self._connect()
        self._writer.executescript(_SCHEMA)
        self._thread = threading.Thread(target=self._run, name="metadata-writer", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=30)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._sync else 'OFF'}")
        connection.execute("PRAGMA wal_autocheckpoint = 2000")
        return connection

    def reader(self) -> sqlite3.Connection:
        """This thread's connection for reading; it sees every acknowledged change."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            self._readers.append(connection)
        assert isinstance(connection, sqlite3.Connection)
        return connection

    async def change(self, function: Callable[[Transaction], T]) -> T:
        """Run `function` inside the writer's transaction and return its result once that is committed.

        An exception undoes what the function did, and only that, and is raised here.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Change(function, loop, future))
        return await asyncio.shield(future)

    def close(self) -> None:
        """Finish what is queued and close the file."""
        self._queue.put(None)
        self._thread.join(timeout=30)
        self._writer.close()
        for connection in self._readers:
            connection.close()

    def _run(self) -> None:
        open_for_business = True
        while open_for_business:
            group = [self._queue.get()]
            while len(group) < 256 and not self._queue.empty():
                group.append(self._queue.get())
            open_for_business = None not in group
            self._commit([change for change in group if change is not None])

    def _commit(self, group: list[_Change]) -> None:
        if not group:
            return
        outcomes: list[tuple[_Change, Any, BaseException | None]] = []
        transaction = Transaction(self._writer)
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for change in group:
                garbage_before = len(transaction.garbage)
                self._writer.execute("SAVEPOINT change")
                try:
                    outcomes.append((change, change.function(transaction), None))
                except Exception as error:
                    self._writer.execute("ROLLBACK TO change")
                    del transaction.garbage[garbage_before:]
                    outcomes.append((change, None, error))
                self._writer.execute("RELEASE change")
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            outcomes = [(change, None, error) for change in group]
            transaction.garbage.clear()
        if transaction.garbage:
            self._on_garbage(transaction.garbage)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Change, Any, BaseException | None]]] = {}
        for outcome in outcomes:
            by_loop.setdefault(outcome[0].loop, []).append(outcome)
        for loop, mine in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_deliver, mine)


class Transaction:
    """The writer's connection inside a transaction, with the few writes that need care."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.garbage: list[str] = []

    def next_generation(self, now_us: int) -> int:
        """A generation number greater than every one before it, also when the clock went backwards."""
        row = self.execute("SELECT value FROM counter WHERE name = 'generation'").fetchone()
        value = max(now_us, (row["value"] if row else 0) + 1)
        self.execute("INSERT OR REPLACE INTO counter VALUES ('generation', ?)", (value,))
        return value

    def drop_blobs(self, blob_ids: list[str]) -> None:
        """Forget content that no object and no upload part refers to any more."""
        for blob_id in set(blob_ids):
            used = self.execute(
                "SELECT EXISTS(SELECT 1 FROM segment WHERE blob = ?1) OR EXISTS(SELECT 1 FROM part WHERE blob = ?1)",
                (blob_id,),
            ).fetchone()[0]
            if not used:
                row = self.execute("DELETE FROM blob WHERE id = ? RETURNING data IS NULL", (blob_id,)).fetchone()
                if row is not None and row[0]:
                    self.garbage.append(blob_id)


class _Change:
    def __init__(
        self, function: Callable[[Transaction], Any], loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any]
    ) -> None:
        self.function = function
        self.loop = loop
        self.future = future


def _deliver(outcomes: list[tuple[_Change, Any, BaseException | None]]) -> None:
    for change, result, error in outcomes:
        if change.future.cancelled():
            continue
        if error is None:
            change.future.set_result(result)
        else:
            change.future.set_exception(error)
