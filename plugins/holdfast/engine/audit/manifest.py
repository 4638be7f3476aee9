"""The manifest of a seal: everything an export holds, each with its digest and its place in the log.

It is the last leaf of its seal. Whoever trusts the log's checkpoint therefore trusts every byte the manifest names.
RFC 8785 canonical JSON; docs/formats/audit-export.md has every field.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.interface import State
from holdfast.engine.snapshot.documents import Document, UtcTime

#: How far the clocks of those who seal and those who record may be apart: a window may end so much after its seal.
CLOCKS_DIFFER = timedelta(minutes=5)
FORMAT = "holdfast.audit-export/1"
#: Names in an export's folder that no manifest lists.
MANIFEST, CHECKPOINT, RANGE, TIMESTAMP = "manifest.json", "checkpoint", "range.json", "checkpoint.tsr"
UNLISTED = frozenset({MANIFEST, CHECKPOINT, RANGE, TIMESTAMP})
#: Of `RANGE`.
RANGE_FORMAT = "holdfast.range/1"
_PARTS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._=-@+,"


def safe_path(path: str) -> str:
    """A relative path that stays in its folder on every system. Raises ValueError."""
    parts = path.split("/")
    if not path or len(path) > 900 or any(_is_unsafe(part) for part in parts):
        raise ValueError(f"expected a relative path of the characters {_PARTS} and /; found {path[:200]!r}")
    if PurePosixPath(path).as_posix() != path or path.casefold() in UNLISTED:
        raise ValueError(f"expected a path of its own; found {path!r}")
    return path


def _is_unsafe(part: str) -> bool:
    """No file system takes a name above 255 bytes."""
    return not 0 < len(part) <= 255 or set(part) <= {"."} or bool(set(part) - set(_PARTS))


Path = Annotated[str, AfterValidator(safe_path)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]


class Window(Document):
    """From ``start`` (inclusive) to ``end`` (exclusive); nothing was asked where they are equal."""

    start: UtcTime
    end: UtcTime

    @model_validator(mode="after")
    def _goes_on(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"expected an end from {self.start.isoformat()} on; found {self.end.isoformat()}")
        return self


class File(Document):
    """One file of the export."""

    path: Path
    sha256: Digest
    size_bytes: Count


class Segment(Document):
    """Events of one source; its leaves are ``first_leaf`` to ``first_leaf + rows``."""

    source: str
    events: File
    objects: File
    subjects: File | None = Field(None, description="Of its protected events; left out where there are none")
    rows: Count
    object_count: Count
    first_leaf: Count

    @model_serializer(mode="wrap")
    def _without_nothing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """An export without protected subjects is written as before there were any."""
        written: dict[str, Any] = write(self)
        if self.subjects is None:
            del written["subjects"]
        return written

    def files(self) -> list[File]:
        """In order."""
        return [file for file in (self.events, self.objects, self.subjects) if file is not None]


class DocumentRef(Document):
    """A document; ``source`` is empty for what belongs to the export itself."""

    file: File
    leaf: Count
    media_type: str
    source: str = ""
    about: dict[str, str] = Field(default_factory=dict)


class SourceRef(Document):
    """A source, the window that was asked of it, and the worst state of its intervals."""

    name: str
    kind: str
    state: State
    window: Window | None
    records: Count
    coverage: Path


class Previous(Document):
    """The seal before this one: its log is the beginning of this one's."""

    seal: Count
    size: Count
    root: Digest
    sealed_at: UtcTime


class Retention(Document):
    """How long the export's objects are locked, by which profiles. It claims no compliance."""

    profiles: tuple[str, ...] = ()
    until: UtcTime | None = None
    lock_mode: Literal["compliance", "governance", "none"] = "none"


class Manifest(Document):
    """One seal."""

    format: Literal["holdfast.audit-export/1"] = "holdfast.audit-export/1"
    origin: str
    seal: Count
    sealed_at: UtcTime
    sealed_by: str
    first_leaf: Count
    size: Count
    previous: Previous | None
    signers: tuple[str, ...] = Field(min_length=1, description="vkeys of all that sign the checkpoint")
    retention: Retention
    sources: tuple[SourceRef, ...]
    segments: tuple[Segment, ...]
    documents: tuple[DocumentRef, ...]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        at = self.first_leaf
        for segment in self.segments:
            if segment.first_leaf != at:
                raise ValueError(f"expected segment {segment.events.path} at leaf {at}; found {segment.first_leaf}")
            at += segment.rows
        for document in self.documents:
            if document.leaf != at:
                raise ValueError(f"expected document {document.file.path} at leaf {at}; found {document.leaf}")
            at += 1
        if self.size != at + 1:
            raise ValueError(f"expected a size of {at + 1}; found {self.size}")
        if self.first_leaf != (self.previous.size if self.previous else 0):
            raise ValueError(f"expected leaves from the previous size on; found {self.first_leaf}")
        following = self.previous.seal + 1 if self.previous else 0
        if self.seal != following:
            raise ValueError(f"expected seal {following}; found {self.seal}")
        return self

    @model_validator(mode="after")
    def _is_one_whole(self) -> Self:
        names = [file.path.casefold() for file in self.files()]
        if len(set(names)) != len(names):
            raise ValueError("expected every path once, on systems that ignore case too")
        sources = [source.name for source in self.sources]
        if len(set(sources)) != len(sources):
            raise ValueError("expected every source once")
        of_segments = {segment.source for segment in self.segments}
        of_documents = {document.source for document in self.documents} - {""}
        if strangers := sorted((of_segments | of_documents) - set(sources)):
            raise ValueError(f"expected segments and documents of its sources; found some of {strangers}")
        held = {document.file.path for document in self.documents}
        if missing := [source.coverage for source in self.sources if source.coverage not in held]:
            raise ValueError(f"expected a document for each source's coverage; found none for {', '.join(missing)}")
        return self

    def files(self) -> list[File]:
        """Everything it names, in order."""
        in_segments = [file for segment in self.segments for file in segment.files()]
        return [*in_segments, *(document.file for document in self.documents)]

    def document(self, path: str) -> DocumentRef | None:
        """The document at a path."""
        return next((document for document in self.documents if document.file.path == path), None)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """A manifest from its bytes. Raises Tampered: they are no canonical manifest of this format."""
    try:
        manifest = Manifest.model_validate(json.loads(data))
        written = manifest.to_json()
    except (ValidationError, ValueError, RecursionError) as error:
        raise Tampered(
            "the manifest cannot be read",
            where=where,
            expected=FORMAT,
            found=_first_line(error),
            fix="Fetch the export again from one of the ledger's sites",
        ) from None
    if written != data:
        raise Tampered("the manifest is not canonical JSON", where=where, expected="RFC 8785", found="other bytes")
    return manifest


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        found: Any = error.errors()[0]
        return f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
    return str(error)[:300]
