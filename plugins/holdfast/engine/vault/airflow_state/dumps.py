"""A consistent copy of the metadata database as a stream that tells when it fell short."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Protocol

from holdfast.engine.vault.airflow_state.children import Child
from holdfast.engine.vault.airflow_state.programs import PostgresPrograms
from holdfast.engine.vault.airflow_state.sessions import PostgresSession, Session, SqliteSession
from holdfast.engine.vault.airflow_state.urls import DatabaseUrl, PostgresUrl, SqliteUrl
from holdfast.engine.vault.sources import failed
from holdfast.errors import ConfigError

_PIECE_BYTES = 1024 * 1024


class Dump(Protocol):
    """One look at a database: what can be asked of it, and its content, are of the same moment."""

    path: str
    server: str

    @property
    def session(self) -> Session:
        """To ask it."""

    def pieces(self, tables: list[str]) -> Iterator[bytes]:
        """The content. At its end it was checked, and holds all these tables. Raises SourceFailed, CommandFailed."""

    def close(self) -> None:
        """End what runs, remove what is temporary."""


def begin_dump(url: DatabaseUrl, programs: PostgresPrograms, *, timeout_seconds: float, folder: Path | None) -> Dump:
    """Take a look at a database. Raises CommandFailed, ConfigError, SourceFailed."""
    if isinstance(url, PostgresUrl):
        return PostgresDump(url, programs, timeout_seconds)
    return SqliteDump(url, timeout_seconds, folder)


class PostgresDump:
    """`pg_dump -Fc` of the snapshot that a session of its own holds.

    What comes out of it is read in full by a `pg_restore` at the same time: an archive that is cut off anywhere does
    not end well there, whatever pg_dump's exit code was.
    """

    path = "airflow.dump"

    def __init__(self, url: PostgresUrl, programs: PostgresPrograms, timeout_seconds: float) -> None:
        self._url, self._programs = url, programs
        self._deadline = time.monotonic() + timeout_seconds
        self.session = PostgresSession(url, programs, timeout_seconds=timeout_seconds)
        self._children: list[Child] = []
        try:
            self.session.change("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            found = self.session.ask("SELECT pg_export_snapshot() AS id, current_setting('server_version') AS version")
        except BaseException:
            self.close()
            raise
        self._snapshot, self.server = str(found[0]["id"]), str(found[0]["version"])

    def pieces(self, tables: list[str]) -> Iterator[bytes]:
        dump = self._child("pg_dump", "--format=custom", "--no-password", f"--snapshot={self._snapshot}")
        reader = self._child("pg_restore", "--file=/dev/null", fed=True)
        with tempfile.TemporaryFile() as listed:
            lister = self._child("pg_restore", "--list", fed=True, stdout=listed)
            for piece in dump.pieces():
                lister.feed(piece)  # it reads the beginning only
                if not reader.feed(piece):
                    reader.end()
                yield piece
            dump.end()
            reader.end()
            lister.end()
            listed.seek(0)
            self._check_list(listed.read().decode(), tables)

    def _child(self, program: str, *arguments: str, fed: bool = False, stdout: object = None) -> Child:
        child = Child(
            [self._programs(program), *arguments],
            self._url.child_environ() if not fed else {"LC_ALL": "C"},
            timeout_seconds=max(0.1, self._deadline - time.monotonic()),
            stdin=fed,
            stdout=stdout,  # type: ignore[arg-type]
            hide=self._url.secrets,
        )
        self._children.append(child)
        return child

    def _check_list(self, text: str, tables: list[str]) -> None:
        words = (line.split() for line in text.splitlines())
        dumped = {line[6] for line in words if line[3:5] == ["TABLE", "DATA"] and len(line) > 6}
        missing = sorted(set(tables) - dumped)
        if missing:
            raise failed(
                "the dump lacks tables",
                where=self._url.place,
                expected=f"the content of {len(tables)} tables",
                found=f"without {', '.join(missing[:10])}",
            )

    def close(self) -> None:
        for child in self._children:
            child.close()
        self.session.close()


class SqliteDump:
    """A copy by SQLite's backup API, which may be taken while Airflow writes; it lies in a temporary file meanwhile."""

    path = "airflow.db"

    def __init__(self, url: SqliteUrl, timeout_seconds: float, folder: Path | None) -> None:
        if not url.path.is_file():
            raise ConfigError("there is no such SQLite file", where=url.place, expected="a file", found="none")
        self._url = url
        self.server = sqlite3.sqlite_version
        descriptor, name = tempfile.mkstemp(prefix="holdfast-airflow-", suffix=".db", dir=folder)
        os.close(descriptor)
        self._copy = Path(name)
        try:
            self._copy_all(timeout_seconds)
            self.session = SqliteSession(self._copy)
        except BaseException:
            self._remove()
            raise

    def _copy_all(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds

        def in_time(status: int, _left: int, _all: int) -> None:
            if status != sqlite3.SQLITE_DONE and time.monotonic() > deadline:
                raise failed(
                    "the SQLite file could not be copied in time",
                    where=self._url.place,
                    expected=f"within {timeout_seconds:g} s",
                    found="somebody writes to it all the time",
                )

        try:
            with (
                closing(sqlite3.connect(f"{self._url.path.absolute().as_uri()}?mode=ro", uri=True)) as source,
                closing(sqlite3.connect(self._copy)) as copy,
            ):
                source.backup(copy, pages=-1, progress=in_time, sleep=0.05)
                copy.execute("PRAGMA journal_mode = DELETE")
                found = [row[0] for row in copy.execute("PRAGMA integrity_check(5)")]
        except sqlite3.Error as error:
            raise failed(
                "the SQLite file could not be copied", where=self._url.place, expected="a copy", found=str(error)
            ) from None
        if found != ["ok"]:
            raise failed(
                "the SQLite file is damaged",
                where=self._url.place,
                expected="`PRAGMA integrity_check`: ok",
                found="; ".join(found),
            )

    def pieces(self, tables: list[str]) -> Iterator[bytes]:
        size = self._copy.stat().st_size
        read = 0
        with self._copy.open("rb", buffering=0) as stream:
            while piece := stream.read(_PIECE_BYTES):
                read += len(piece)
                yield piece
        if read != size or set(tables) - set(self.session.tables()):
            raise failed("the copy fell short", where=self._url.place, expected=f"{size} bytes", found=f"{read} bytes")

    def close(self) -> None:
        with suppress(AttributeError):
            self.session.close()
        self._remove()

    def _remove(self) -> None:
        for name in (self._copy, Path(f"{self._copy}-wal"), Path(f"{self._copy}-shm"), Path(f"{self._copy}-journal")):
            name.unlink(missing_ok=True)
