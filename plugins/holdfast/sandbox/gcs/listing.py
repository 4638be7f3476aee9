"""Listing objects in order of name, with prefixes folded by a delimiter."""

from __future__ import annotations

import base64
import binascii
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.sandbox.gcs.errors import invalid
from holdfast.sandbox.gcs.records import ObjectRecord

# Sorts behind every character a name can hold.
_LAST = "\U0010ffff"


@dataclass(frozen=True)
class Query:
    """What to list.

    Attributes:
        prefix: names begin with it.
        delimiter: names that have it behind the prefix are folded into one prefix; empty for no folding.
        start: first name that is listed.
        end: names from here on are not listed; None for no end.
        after: names up to and including this one are not listed.
        after_generation: of the name `after`, the generations up to this one are not listed; 0 when `after` is a folded
            prefix, of which nothing more is listed.
        versions: list noncurrent generations too.
        keep_trailing_delimiter: list a name that is itself a folded prefix as an object too.
        limit: most objects and prefixes on one page.
        accept: whether to list a name; None lists all.
    """

    prefix: str = ""
    delimiter: str = ""
    start: str = ""
    end: str | None = None
    after: str | None = None
    after_generation: int = 0
    versions: bool = False
    keep_trailing_delimiter: bool = False
    limit: int = 1000
    accept: Callable[[str], bool] | None = None


@dataclass(frozen=True)
class Page:
    """One page of a listing; `next_token` is None on the last."""

    objects: list[ObjectRecord]
    prefixes: list[str]
    next_token: str | None


def encode_token(name: str, generation: int = 0) -> str:
    """A page token: what was listed last."""
    return base64.urlsafe_b64encode(f"{generation}:{name}".encode()).decode()


def decode_token(token: str) -> tuple[str, int]:
    """The inverse of `encode_token`; 400 for anything else."""
    try:
        generation, _, name = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
        return name, int(generation)
    except (binascii.Error, UnicodeError, ValueError):
        raise invalid("Invalid page token.", location="pageToken") from None


def list_objects(connection: sqlite3.Connection, bucket: str, query: Query) -> Page:
    """One page. Folded names are skipped by a seek, not read one by one."""
    found = _Collector(query)
    cursor = _start(query)
    while True:
        rows = _rows_after(connection, bucket, query, cursor)
        if not rows:
            return found.page(None)
        for row in rows:
            name: str = row["name"]
            if not name.startswith(query.prefix) or (query.end is not None and name >= query.end):
                return found.page(None)
            cursor = (name, row["generation"])
            if query.accept is not None and not query.accept(name):
                continue
            if found.full:
                return found.page(found.last)
            if folded := found.add(row):
                cursor = (folded + _LAST, -1)
                break


def _start(query: Query) -> tuple[str, int]:
    """Name and generation behind which the listing begins."""
    first = max(query.start, query.prefix)
    if query.after is None or query.after < first:
        return first, -1
    if query.after_generation:
        return query.after, query.after_generation
    # Listed last was a folded prefix: everything below it is behind us.
    return query.after + _LAST, -1


def _rows_after(
    connection: sqlite3.Connection, bucket: str, query: Query, cursor: tuple[str, int]
) -> list[sqlite3.Row]:
    # "name >= ?" says nothing new to the condition before it, but lets SQLite seek.
    return connection.execute(
        "SELECT * FROM object WHERE bucket = ?1 AND name >= ?2 AND (name > ?2 OR generation > ?3)"
        " AND (live = 1 OR ?4) ORDER BY name, generation LIMIT ?5",
        (bucket, cursor[0], cursor[1], query.versions, query.limit + 1),
    ).fetchall()


class _Collector:
    """What a page holds so far."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._objects: list[ObjectRecord] = []
        self._prefixes: list[str] = []
        self.last: tuple[str, int] = ("", 0)

    @property
    def full(self) -> bool:
        return len(self._objects) + len(self._prefixes) >= self._query.limit

    def add(self, row: sqlite3.Row) -> str | None:
        """Take one more; returns the prefix it was folded into, if it was."""
        name, delimiter = row["name"], self._query.delimiter
        cut = name.find(delimiter, len(self._query.prefix)) if delimiter else -1
        folded = name[: cut + len(delimiter)] if cut >= 0 else None
        if folded is None or (self._query.keep_trailing_delimiter and folded == name):
            self._objects.append(ObjectRecord.from_row(row))
            self.last = (name, row["generation"])
        if folded is not None:
            self._prefixes.append(folded)
            self.last = (folded, 0)
        return folded

    def page(self, last: tuple[str, int] | None) -> Page:
        """The page; `last` is what a next one begins behind."""
        return Page(self._objects, self._prefixes, encode_token(*last) if last else None)
