"""What Parquet objects hold, told by their footers: rows and schemas, to compare a restore with what was backed up.

One request for each object, two where its footer is long; no column is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.snapshot.threads import in_threads

FORMAT = "holdfast.content/1"
SUFFIX = ".parquet"
_TAIL_BYTES = 64 * 1024
_END_BYTES = 8
_THREADS = 16
_MOST_NAMED = 20

#: Bytes ``start`` (inclusive) to ``end`` (exclusive) of an object.
ReadRange = Callable[[str, int, int], bytes]


@dataclass(frozen=True)
class Footer:
    """What one object's footer says: its rows, and each column's name, type and whether it may be null."""

    rows: int
    columns: tuple[tuple[str, str, bool], ...]

    @property
    def digest(self) -> str:
        """Of the columns."""
        return digest_of(canonical([list(column) for column in self.columns]))


def content_of(objects: Iterable[tuple[str, int]], read_range: ReadRange) -> dict[str, Any]:
    """The rows and schemas of all Parquet objects among these, JSON-able.

    Args:
        objects: path and size in bytes of each; those that do not end in ``.parquet`` are passed over.
        read_range: reads one.

    Returns:
        ``format``; ``objects`` and ``rows``, of all; ``schemas``, each with ``digest``, ``columns``, ``objects`` and
        ``rows``; ``unreadable``: how many are no Parquet for all their names.
    """
    wanted = [(path, size) for path, size in objects if path.endswith(SUFFIX)]
    by_schema: dict[str, dict[str, Any]] = {}
    unreadable = 0
    for footer in in_threads(lambda one: _footer(*one, read_range), wanted, threads=_THREADS, name="holdfast-footers"):
        if footer is None:
            unreadable += 1
            continue
        fresh = {"columns": [list(column) for column in footer.columns], "objects": 0, "rows": 0}
        found = by_schema.setdefault(footer.digest, fresh)
        found["objects"] += 1
        found["rows"] += footer.rows
    return {
        "format": FORMAT,
        "objects": len(wanted),
        "rows": sum(found["rows"] for found in by_schema.values()),
        "unreadable": unreadable,
        "schemas": [{"digest": digest, **found} for digest, found in sorted(by_schema.items())],
    }


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True)

    digest: str
    columns: list[list[str | bool]]
    objects: int
    rows: int


class _Content(BaseModel):
    model_config = ConfigDict(strict=True)

    format: Literal["holdfast.content/1"]
    objects: int
    rows: int
    unreadable: int
    schemas: list[_Schema]


def recorded_content(origin: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a backup recorded; ``None``: nothing of this form. Whoever has a writer's key could have recorded it."""
    try:
        return _Content.model_validate(origin.get("content")).model_dump()
    except ValidationError:
        return None


def same_rows(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether both have the same rows, by schema."""
    return _rows(recorded) == _rows(found)


def same_schemas(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether both have the same columns in the same number of objects."""
    return _schemas(recorded) == _schemas(found)


def schema_differences(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What differs, for people: a sentence each, the first few."""
    told = []
    before, now = _columns(recorded), _columns(found)
    for column in [*before, *(c for c in now if c not in before)]:
        if column not in now:
            told.append(f"missing: {column[0]} {column[1]}")
        elif column not in before:
            told.append(f"new: {column[0]} {column[1]}")
    return told[:_MOST_NAMED]


def _rows(content: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        content.get("rows"),
        content.get("unreadable"),
        sorted((one["digest"], one["rows"]) for one in content.get("schemas", ())),
    )


def _schemas(content: Mapping[str, Any]) -> list[Any]:
    return sorted((one["digest"], one["objects"], one["columns"]) for one in content.get("schemas", ()))


def _columns(content: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return list(dict.fromkeys(tuple(column) for one in content.get("schemas", ()) for column in one["columns"]))


def _footer(path: str, size: int, read_range: ReadRange) -> Footer | None:
    """``None``: it is no Parquet."""
    start = max(0, size - _TAIL_BYTES)
    tail = read_range(path, start, size)
    length = int.from_bytes(tail[-_END_BYTES:-4], "little") + _END_BYTES
    if length > size or len(tail) < _END_BYTES:
        return None
    if length > len(tail):
        tail = read_range(path, size - length, start) + tail
    try:
        metadata = pq.read_metadata(pa.BufferReader(tail))
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError):
        return None
    columns = tuple((field.name, str(field.type), bool(field.nullable)) for field in schema)
    return Footer(int(metadata.num_rows), columns)
