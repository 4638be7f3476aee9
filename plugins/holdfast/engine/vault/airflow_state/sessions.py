"""Questions to a metadata database, the same for both kinds: over psql, which is where pg_dump is, or over sqlite3."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from holdfast.engine.vault.airflow_state.children import Child
from holdfast.engine.vault.airflow_state.programs import PostgresPrograms
from holdfast.engine.vault.airflow_state.urls import DatabaseUrl, PostgresUrl
from holdfast.engine.vault.errors import CommandFailed
from holdfast.errors import ConfigError

Row = dict[str, Any]


class Session(Protocol):
    """An open connection."""

    def ask(self, query: str) -> list[Row]:
        """The rows of a SELECT. Raises CommandFailed."""

    def change(self, statement: str) -> None:
        """Run a statement that returns nothing; it is committed. Raises CommandFailed."""

    def tables(self) -> list[str]:
        """The names of its tables, in order."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_session(url: DatabaseUrl, programs: PostgresPrograms, *, timeout_seconds: float) -> Session:
    """Connect. Raises CommandFailed, ConfigError."""
    if isinstance(url, PostgresUrl):
        return PostgresSession(url, programs, timeout_seconds=timeout_seconds)
    return SqliteSession(url.path)


class PostgresSession:
    """A psql that is asked over its input, so no database driver is needed.

    Args:
        timeout_seconds: after so long the connection ends, whatever it does.
    """

    def __init__(self, url: PostgresUrl, programs: PostgresPrograms, *, timeout_seconds: float) -> None:
        self._url = url
        self._child = Child(
            [programs("psql"), "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1"],
            url.child_environ(),
            timeout_seconds=timeout_seconds,
            stdin=True,
            hide=url.secrets,
        )
        self._buffer = b""

    def ask(self, query: str) -> list[Row]:
        answer = self._say(f"SELECT coalesce(json_agg(row_to_json(asked)), '[]') FROM ({query}) asked;")  # noqa: S608
        found: list[Row] = json.loads(answer)
        return found

    def change(self, statement: str) -> None:
        self._say(f"{statement};")

    def tables(self) -> list[str]:
        found = self.ask(
            "SELECT c.relname AS name FROM pg_catalog.pg_class c"
            " WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')"
        )
        return sorted(row["name"] for row in found)

    def _say(self, statement: str) -> bytes:
        mark = f"-- end {os.urandom(8).hex()}"
        self._child.feed(f"{statement}\n\\echo {mark}\n".encode())
        end = mark.encode() + b"\n"
        while end not in self._buffer:
            piece = next(self._child.pieces(), b"")
            if not piece:
                self._child.process.wait()
                self._child.close()
                raise CommandFailed(
                    "the metadata database does not answer",
                    where=self._url.place,
                    expected="an answer to psql",
                    found=self._child.failure().found,
                )
            self._buffer += piece
        answer, _, self._buffer = self._buffer.partition(end)
        return answer

    def close(self) -> None:
        self._child.end_input()
        with suppress(subprocess.TimeoutExpired):
            self._child.process.wait(5)
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SqliteSession:
    """An SQLite file that is there."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ConfigError("there is no such SQLite file", where=str(path), expected="a file", found="none")
        self._path = path
        self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=30)
        self._connection.row_factory = sqlite3.Row

    def ask(self, query: str) -> list[Row]:
        try:
            return [dict(row) for row in self._connection.execute(query)]
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def change(self, statement: str) -> None:
        try:
            with self._connection:
                self._connection.execute(statement)
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def tables(self) -> list[str]:
        found = self.ask("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        return sorted(row["name"] for row in found)

    def _failed(self, error: sqlite3.Error) -> CommandFailed:
        return CommandFailed(
            "the SQLite file does not answer", where=str(self._path), expected="an answer", found=str(error)
        )

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def count_rows(session: Session, tables: Sequence[str]) -> dict[str, int]:
    """The rows of each table."""
    found: dict[str, int] = {}
    for start in range(0, len(tables), 50):
        query = " UNION ALL ".join(
            f"SELECT '{_text(name)}' AS name, count(*) AS rows FROM {_name(name)}"  # noqa: S608 - names the database itself gave
            for name in tables[start : start + 50]
        )
        found.update({row["name"]: int(row["rows"]) for row in session.ask(query)})
    return found


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(text: str) -> str:
    return text.replace("'", "''")
