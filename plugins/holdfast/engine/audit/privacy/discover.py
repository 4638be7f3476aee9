"""Where personal data lies in exports: in raw events, OCSF columns and documents, by source, path and kind.

It is there to decide what needs protection, and to see that nothing is open in an export whose subjects are protected.
Counts alone are told, never a value: a field's name that could be one is `*` in the path.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.audit.leaves import Progress
from holdfast.engine.audit.manifest import DocumentRef, Segment
from holdfast.engine.audit.privacy.detectors import Kind, kinds_of
from holdfast.engine.audit.segments import read_raw, read_texts
from holdfast.engine.audit.sources.cloudtrail_files import UnreadableFile, inflate
from holdfast.engine.audit.verify import Verified

#: Of the command: a sign of its own, since 1 to 7 are said of what an export is.
FOUND, UNKNOWN = 8, 7
#: A record above this is not read as JSON. Several times the largest that a source delivers.
_LARGEST_JSON_BYTES = 16 * 1024 * 1024
#: A place's paths; what more are there is told under one of them.
_MOST_PATHS, _OTHER_PATHS = 1_000, "(other paths)"
#: A name that is shown. People's names and ids with spaces, colons or at signs are not.
_SHOWN = re.compile(r"[A-Za-z_][\w./-]{0,63}", re.ASCII)

#: A node's parent and its name; `None`: an element of a list. The root is empty.
_Path = tuple[Any, ...]


@dataclass(frozen=True)
class Place:
    """Where personal data lies.

    Args:
        source: the source's name; empty: a document of the export itself.
        part: ``raw`` events, ``ocsf`` columns, or ``documents``.
        path: below a raw event or a document `$.name[*].name`; of a column as OCSF has it.
        kind: what lies there.
    """

    source: str
    part: str
    path: str
    kind: Kind


@dataclass
class Discovery:
    """What was found, and what could not be looked at.

    Args:
        events: by place, how many events (or documents) have it there.
        protected: of these, how many events whose subject is protected.
        looked_at: how many events and documents.
        not_opened: how many protected events' raw bytes are encrypted, so that they were not looked at.
        as_text: how many events and documents are damaged JSON, or too deep or too large: what is escaped in them was
            not found.
        not_text: names of documents that are no text, so that they were not looked at.
    """

    events: Counter[Place] = field(default_factory=Counter)
    protected: Counter[Place] = field(default_factory=Counter)
    looked_at: Counter[str] = field(default_factory=Counter)
    not_opened: int = 0
    as_text: int = 0
    not_text: list[str] = field(default_factory=list)
    _paths: defaultdict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def verdict(self) -> str:
        """``found``; ``unknown``: something could not be looked at in full; else ``nothing``."""
        if self.events:
            return "found"
        return "unknown" if self.as_text or self.not_text else "nothing"

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return {"found": FOUND, "unknown": UNKNOWN, "nothing": 0}[self.verdict]

    def add(self, source: str, part: str, path: str, kind: Kind, events: int = 1, protected: int = 0) -> None:
        """Count events."""
        paths = self._paths[source, part]
        if path not in paths:
            if len(paths) >= _MOST_PATHS:
                path = _OTHER_PATHS
            paths.add(path)
        place = Place(source, part, path, kind)
        self.events[place] += events
        if protected:
            self.protected[place] += protected

    def to_json(self) -> dict[str, Any]:
        """The answer of ``--json``."""
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "events": self.looked_at["events"],
            "documents": self.looked_at["documents"],
            "events_not_opened": self.not_opened,
            "read_as_text": self.as_text,
            "documents_not_read": self.not_text,
            "found": [
                {
                    "source": place.source,
                    "part": place.part,
                    "path": place.path,
                    "kind": place.kind,
                    "count": self.events[place],
                    "protected": self.protected[place],
                }
                for place in self.places()
            ],
        }

    def places(self) -> list[Place]:
        """In the order of sources, parts, paths and kinds."""
        return sorted(self.events, key=lambda one: (one.source, one.part, one.path, one.kind))


def discover(exports: Iterable[Verified], progress: Progress = lambda *_: None) -> Discovery:
    """Look for personal data in exports that were verified. Memory is for a part of a segment.

    Protected events are looked at in their columns alone: their bytes are encrypted.

    Args:
        exports: what `verify_exports` gave.
        progress: told ``(what, done, of)``.

    Raises:
        Tampered: an export is not what was sealed, so nothing of it can be relied on.
    """
    found = Discovery()
    for export in exports:
        manifest, folder = export.sealed("can be relied on"), Path(export.answer.where)
        total, done = sum(one.rows for one in manifest.segments), 0
        for segment in manifest.segments:
            parts = []
            for part in _look_at_raw(folder, segment, found):
                parts.append(part)
                done += len(part)
                progress("searched events", done, total)
            _look_at_columns(folder, segment, pa.chunked_array(parts, pa.bool_()).combine_chunks(), found)
        for document in manifest.documents:
            _look_at_document(folder, document, found)
        found.looked_at.update(events=total, documents=len(manifest.documents))
    return found


def _look_at_raw(folder: Path, segment: Segment, found: Discovery) -> Iterator[pa.Array]:
    """Gives part by part which events are protected."""
    for raw in read_raw(folder / segment.events.path):
        found.not_opened += raw.null_count
        for data in raw.drop_null():
            for path, kind in _in_record(data.as_py(), found):
                found.add(segment.source, "raw", path, kind)
        yield raw.is_null()


def _look_at_columns(folder: Path, segment: Segment, hidden: pa.BooleanArray, found: Discovery) -> None:
    """Each different text of a part of a column is looked at once.

    Args:
        hidden: per event whether it is protected.
    """
    for path, first, texts, rows in read_texts(folder / segment.events.path):
        codes: defaultdict[Kind, list[int]] = defaultdict(list)
        for code, text in enumerate(texts.dictionary):
            for kind in kinds_of(text.as_py() or ""):
                codes[kind].append(code)
        for kind, held in codes.items():
            there = pc.is_in(texts.indices, pa.array(held, texts.indices.type))
            events = rows.filter(there).unique()
            if len(events):
                found.add(
                    segment.source, "ocsf", path, kind, len(events), hidden.take(pc.add(events, first)).true_count
                )


def _look_at_document(folder: Path, document: DocumentRef, found: Discovery) -> None:
    """JSON, lines of JSON, or any other text."""
    name = document.file.path
    shown = name if _SHOWN.fullmatch(name) and not kinds_of(name) else f"leaf {document.leaf}"
    here: set[tuple[str, Kind]] = {(f"{shown} (name)", kind) for kind in kinds_of(name)}
    data = (folder / name).read_bytes()
    try:
        data = inflate([data], max_bytes=_LARGEST_JSON_BYTES) if document.media_type == "application/gzip" else data
        data.decode()
    except (UnreadableFile, UnicodeDecodeError):
        found.not_text.append(shown)
    else:
        is_lines = name.endswith((".jsonl", ".ndjson"))
        for record in data.splitlines() if is_lines else [data]:
            here.update((f"{shown} {path}", kind) for path, kind in _in_record(record, found))
    for path, kind in here:
        found.add(document.source, "documents", path, kind)


def _in_record(data: bytes, found: Discovery) -> set[tuple[str, Kind]]:
    """Paths and kinds of a record. What is no JSON is looked at as text; where it should be JSON, that is counted."""
    try:
        if len(data) > _LARGEST_JSON_BYTES:
            raise ValueError(f"{len(data)} bytes")
        # Pairs: of two fields of one name both are looked at. Numbers stay text: of any length, and digit by digit.
        record = json.loads(data, object_pairs_hook=_Pairs, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        found.as_text += data.lstrip()[:1] in (b"{", b"[")
        return {("$", kind) for kind in kinds_of(data.decode(errors="replace"))}
    return set(_in_json(record))


class _Pairs(tuple[tuple[str, Any], ...]):
    """An object of JSON: its fields in order."""


def _in_json(record: Any) -> Iterator[tuple[str, Kind]]:
    waiting: list[tuple[Any, _Path]] = [(record, ())]
    while waiting:
        value, path = waiting.pop()
        if isinstance(value, _Pairs):
            for name, inner in value:
                held = kinds_of(name)
                below: _Path = (path, name if _SHOWN.fullmatch(name) and not held else "*")
                yield from ((f"{_written(below)} (name)", kind) for kind in held)
                waiting.append((inner, below))
        elif isinstance(value, list):
            below = (path, None)
            waiting += [(inner, below) for inner in value]
        elif isinstance(value, str):
            yield from ((_written(path), kind) for kind in kinds_of(value))


def _written(path: _Path) -> str:
    names = []
    while path:
        path, name = path
        names.append("[*]" if name is None else f".{name}")
    return "$" + "".join(reversed(names))
