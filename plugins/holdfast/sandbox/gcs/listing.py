"""Listing objects in order of name, with prefixes folded by a delimiter."""

from __future__ import annotations

import base64
import binascii
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

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
        after: names and folded prefixes up to and including this one are not listed.
        versions: list noncurrent generations too.
        keep_trailing_delimiter: list a name that is itself a folded prefix as an object too.
        limit: most objects and prefixes on one page.
        accept: whether to list a name.
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
    accept: Callable[[str], bool] = field(default=lambda name: True)


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
    objects: list[ObjectRecord] = []
    prefixes: list[str] = []
    cursor, cursor_generation = max(query.start, query.prefix), -1
    if query.after is not None and query.after >= cursor:
        folded = query.delimiter and query.after.endswith(query.delimiter) and query.after_generation == 0
        cursor, cursor_generation = query.after, query.after_generation or 2**63 - 1
        if folded and query.after.startswith(query.prefix) and len(query.after) > len(query.prefix):
            cursor, cursor_generation = query.after + _LAST, -1
    last: tuple[str, int] | None = None
    live = "" if query.versions else " AND live = 1"
    while True:
        batch = connection.execute(
            f"SELECT * FROM object WHERE bucket = ? AND (name, generation) > (?, ?) AND name >= ?{live}"
            " ORDER BY name, generation LIMIT ?",
            (bucket, cursor, cursor_generation, cursor, min(query.limit, 1000) + 1),
        ).fetchall()
        for row in batch:
            name = row["name"]
            if not name.startswith(query.prefix) or (query.end is not None and name >= query.end):
                return Page(objects, prefixes, None)
            cut = name.find(query.delimiter, len(query.prefix)) if query.delimiter else -1
            shown = name if cut < 0 else name[: cut + len(query.delimiter)]
            as_object = cut < 0 or (query.keep_trailing_delimiter and shown == name)
            wanted = query.accept(name)
            if wanted and len(objects) + len(prefixes) >= query.limit:
                assert last is not None
                return Page(objects, prefixes, encode_token(*last))
            if cut >= 0 and wanted:
                prefixes.append(shown)
                last = (shown, 0)
            if as_object and wanted:
                objects.append(ObjectRecord.from_row(row))
                last = (name, row["generation"])
            if cut >= 0 and wanted:
                cursor, cursor_generation = shown + _LAST, -1
                break
            cursor, cursor_generation = name, row["generation"]
        else:
            if not batch:
                return Page(objects, prefixes, None)
