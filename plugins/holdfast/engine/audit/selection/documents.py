"""`selection.json`, and where the other files of a selection lie. docs/formats/audit-selection.md has every field."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.manifest import Count, Digest
from holdfast.engine.audit.selection.completeness import SourceAnswer
from holdfast.engine.audit.selection.query import Query
from holdfast.engine.snapshot.documents import Document

FORMAT = "holdfast.audit-selection/1"
SELECTION, EVENTS = "selection.json", "events.parquet"
#: A proof is a file of its own up to here; whoever wants more is better served by the export.
MOST_EVENTS = 10_000
_LARGEST_BYTES = 64 * 1024 * 1024

#: What this version makes of the raw bytes is what was sealed; something else is; that cannot be made here.
Columns = Literal["reproduced", "other", "not-at-hand"]


class ExportRef(Document):
    """One export the events are of: ``leaf`` is its manifest's, ``coverage`` those of the coverage documents."""

    seal: Count
    size: Count
    root: Digest
    leaf: Count
    coverage: tuple[Count, ...]


class EventRef(Document):
    """One event: its leaf, the export's seal, and the source and object it came in."""

    leaf: Count
    seal: Count
    source: str
    object_id: str


class Selection(Document):
    """What was asked of which exports, and what was found."""

    format: Literal["holdfast.audit-selection/1"] = "holdfast.audit-selection/1"
    version: str = Field(description="Of Holdfast, that made it")
    origin: str
    query: Query
    exports: tuple[ExportRef, ...] = Field(min_length=1)
    sources: tuple[SourceAnswer, ...]
    columns: dict[str, Columns]
    events: tuple[EventRef, ...] = Field(max_length=MOST_EVENTS)


def proof_of(leaf: int) -> str:
    return f"proofs/{leaf}.tlog-proof"


def manifest_of(leaf: int) -> str:
    return f"manifests/{leaf}.json"


def coverage_of(leaf: int) -> str:
    return f"coverage/{leaf}.json"


def parse_selection(data: bytes, where: str) -> Selection:
    """Raises Tampered: these are no canonical bytes of one."""
    try:
        selection = Selection.model_validate_json(data)
    except (ValidationError, RecursionError) as error:
        found = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
        raise Tampered("the selection cannot be read", where=where, expected=FORMAT, found=found[:300]) from None
    if selection.to_json() != data:
        raise Tampered("the selection is not canonical JSON", where=where, expected="RFC 8785", found="other bytes")
    return selection


def read_file(folder: Path, name: str, most: int = _LARGEST_BYTES) -> bytes:
    """Raises Tampered: it is not there, a link, or far too large."""
    file = folder / name
    try:
        if file.is_symlink() or file.parent.is_symlink():
            raise Tampered("a link where a file was written", where=name)
        if (size := file.stat().st_size) > most:
            raise Tampered("the file is far too large", where=name, expected=f"at most {most}", found=str(size))
        return file.read_bytes()
    except OSError as error:
        raise Tampered("a file of the selection cannot be read", where=name, found=str(error.strerror)) from None
