"""Collecting: each source's intervals read, normalised and written down in a staging folder, to be sealed from there.

What is read is kept in *units*: some intervals of one source with their segment, leaves, documents and coverage. A unit
counts once its folder has its final name, which is given last; a run that was killed goes on after the last one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from holdfast.engine.audit.coverage import coverage_as_dict, coverage_from_dict
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.interface import (
    AuditSource,
    Batch,
    Coverage,
    Document,
    Finding,
    Interval,
    SourceUnreadable,
    State,
)
from holdfast.engine.audit.manifest import safe_path
from holdfast.engine.audit.privacy.keys import SubjectKeys
from holdfast.engine.audit.segments import SegmentWriter
from holdfast.engine.memory import blocks_kept
from holdfast.errors import HoldfastError

#: An interval that brings a unit to so many events, or bytes of them, ends it.
_UNIT_EVENTS = 500_000
_UNIT_BYTES = 512 * 1024 * 1024
_META = "unit.json"
EVENTS, OBJECTS, LEAVES, DOCUMENTS = "events.parquet", "events.objects.parquet", "leaves", "documents"
SUBJECTS = "events.subjects.parquet"

#: Codes of findings that no other try mends: the source has no proof of such an interval, or what is gone is gone.
_NEVER_MENDED = frozenset(
    {"hour-empty", "no-proof", "ids-missing", "ids-purged", "ids-went-back", "rows-removed", "row-changed"}
)

Progress = Callable[[str, Interval, int], object]


@dataclass(frozen=True)
class StagedDocument:
    """A document in a unit's folder."""

    name: str
    file: Path
    media_type: str
    about: dict[str, str]


@dataclass(frozen=True)
class Unit:
    """Some intervals of one source, read."""

    folder: Path
    source: str
    coverages: tuple[Coverage, ...]
    rows: int
    objects: int
    documents: tuple[StagedDocument, ...]
    #: Of intervals that are asked again: the objects that are sealed now, by id and SHA-256.
    read: dict[Interval, frozenset[tuple[str, str]]]

    @property
    def events_file(self) -> Path:
        return self.folder / EVENTS

    @property
    def objects_file(self) -> Path:
        return self.folder / OBJECTS

    @property
    def subjects_file(self) -> Path | None:
        """Of its protected events, if it has any."""
        file = self.folder / SUBJECTS
        return file if file.exists() else None

    def leaves(self) -> Iterator[bytes]:
        """Of its events, in order, as one run of bytes after the other; each a multiple of 32 long."""
        if self.rows:
            with (self.folder / LEAVES).open("rb") as opened:
                while data := opened.read(32 * 32768):
                    yield data


@dataclass(frozen=True)
class Asked:
    """What is asked of a source.

    Args:
        source: the source.
        intervals: in order.
        known: per interval the objects, by id and SHA-256, that an earlier seal holds already.
        keys: of subjects, whose events are protected; ``None``: nothing is.
        told: per interval what its coverage tells beside what the source says.
    """

    source: AuditSource
    intervals: tuple[Interval, ...]
    known: Mapping[Interval, frozenset[tuple[str, str]]]
    keys: SubjectKeys | None = None
    told: Mapping[Interval, tuple[Finding, ...]] = field(default_factory=dict)


@blocks_kept()
def collect(asked: Asked, folder: Path, *, progress: Progress = lambda *_: None) -> list[Unit]:
    """Read a source into a folder; what a run before this one read whole is not read again.

    A source that cannot be read makes its interval unknown, and the next one is tried.

    Args:
        asked: the source and its intervals.
        folder: of this source and this seal alone.
        progress: told ``(source, interval, events so far)`` after each interval.
    """
    units = list(staged_units(folder, asked.source.name))
    done = {coverage.interval for unit in units for coverage in unit.coverages}
    left = [interval for interval in asked.intervals if interval not in done]
    seen = sum(unit.rows for unit in units)
    while left:
        draft = _fresh(folder / f"{len(units):06d}.draft")
        unit, left = _read_unit(asked, left, draft, partial(_tell, progress, asked.source.name, seen))
        seen += unit.rows
        units.append(unit)
    return units


def _tell(progress: Progress, source: str, seen: int, interval: Interval, rows: int) -> None:
    progress(source, interval, seen + rows)


def staged_units(folder: Path, source: str) -> Iterator[Unit]:
    """The units a folder holds whole, in order."""
    number = 0
    while (place := folder / f"{number:06d}").is_dir():
        yield _load(place, source)
        number += 1


def _fresh(folder: Path) -> Path:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def _read_unit(
    asked: Asked, intervals: Sequence[Interval], draft: Path, progress: Callable[[Interval, int], object]
) -> tuple[Unit, list[Interval]]:
    """Read intervals until a unit is full; what is left comes back."""
    writer = SegmentWriter(draft, "events", asked.keys)
    coverages: list[Coverage] = []
    read: dict[Interval, list[tuple[str, str]]] = {}
    documents: dict[str, StagedDocument] = {}
    left = list(intervals)
    with (draft / LEAVES).open("wb") as leaves:
        while left and writer.rows < _UNIT_EVENTS and writer.raw_bytes < _UNIT_BYTES:
            interval = left.pop(0)
            one = _read_interval(asked, interval, writer, leaves.write, read.setdefault(interval, []))
            coverages.append(replace(one, findings=(*one.findings, *asked.told.get(interval, ()))))
            for document in _documents(asked.source, interval, coverages):
                documents[document.name] = _stage(document, draft / DOCUMENTS)
            progress(interval, writer.rows)
    writer.close()
    meta = {
        "rows": writer.rows,
        "objects": writer.objects,
        "coverages": [coverage_as_dict(one) for one in coverages],
        "read": [read[one.interval] if is_asked_again(one) else [] for one in coverages],
        "documents": [
            {"name": one.name, "media_type": one.media_type, "about": one.about} for one in documents.values()
        ],
    }
    (draft / _META).write_text(json.dumps(meta), encoding="utf-8")
    place = draft.with_suffix("")
    draft.rename(place)
    return _load(place, asked.source.name), left


def _read_interval(
    asked: Asked,
    interval: Interval,
    writer: SegmentWriter,
    write_leaves: Callable[[bytes], object],
    read: list[tuple[str, str]],
) -> Coverage:
    source, known = asked.source, asked.known.get(interval, frozenset())
    rows = objects = 0
    try:
        for batch in source.read(interval):
            new = _without(batch, known)
            for leaf_run in _runs(writer.add(new, source.normalise(new.raw))):
                write_leaves(leaf_run)
            rows += len(new.raw)
            objects += len(new.objects)
            read += [(one.object_id, one.sha256) for one in batch.objects]
        return source.completeness(interval)
    except HoldfastError as error:
        # What came before the error was received, and stays; what the source says of it counts as well.
        found = _unreadable(error, source.name)
        try:
            said = source.completeness(interval)
        except HoldfastError:
            said = Coverage(interval, "none", None, 0, objects, rows)
        return replace(said, objects=objects, records=rows, findings=(*said.findings, found))


def is_asked_again(coverage: Coverage) -> bool:
    """Whether the next seal asks for the interval again: more may come, or another try may mend it."""
    wrong = {found.code for found in coverage.findings if found.state is not State.COMPLETE}
    return coverage.state is not State.COMPLETE and (not wrong or bool(wrong - _NEVER_MENDED))


def _unreadable(error: HoldfastError, source: str) -> Finding:
    code = error.code if isinstance(error, SourceUnreadable) else type(error).__name__
    return Finding(code, str(error)[:2000], error.where or source, State.UNKNOWN)


def _documents(source: AuditSource, interval: Interval, coverages: list[Coverage]) -> Iterable[Document]:
    try:
        yield from source.documents(interval)
    except HoldfastError as error:
        last = coverages[-1]
        coverages[-1] = replace(last, findings=(*last.findings, _unreadable(error, source.name)))


def _without(batch: Batch, known: frozenset[tuple[str, str]]) -> Batch:
    """The batch without objects that are sealed already, byte for byte."""
    if not known or not any((one.object_id, one.sha256) in known for one in batch.objects):
        return batch
    import pyarrow as pa

    parts, objects, counts, at = [], [], [], 0
    for one, count in zip(batch.objects, batch.counts, strict=True):
        if (one.object_id, one.sha256) not in known:
            parts.append(batch.raw.slice(at, count))
            objects.append(one)
            counts.append(count)
        at += count
    raw = pa.concat_arrays(parts) if parts else pa.array([], pa.large_binary())
    return Batch(tuple(objects), tuple(counts), raw)


def _runs(leaves: list[bytes]) -> Iterator[bytes]:
    for at in range(0, len(leaves), 32768):
        yield b"".join(leaves[at : at + 32768])


def _stage(document: Document, folder: Path) -> StagedDocument:
    try:
        file = folder / safe_path(document.name)
    except ValueError as error:
        raise Tampered(
            "a source names a document that leads out of the export", where=document.name[:200], found=str(error)[:300]
        ) from None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(document.data)
    return StagedDocument(document.name, file, document.media_type, dict(document.about))


def _load(folder: Path, source: str) -> Unit:
    meta = json.loads((folder / _META).read_text(encoding="utf-8"))
    coverages = tuple(coverage_from_dict(one) for one in meta["coverages"])
    return Unit(
        folder=folder,
        source=source,
        coverages=coverages,
        rows=meta["rows"],
        objects=meta["objects"],
        documents=tuple(
            StagedDocument(one["name"], folder / DOCUMENTS / one["name"], one["media_type"], one["about"])
            for one in meta["documents"]
        ),
        read={
            coverage.interval: frozenset((found[0], found[1]) for found in objects)
            for coverage, objects in zip(coverages, meta["read"], strict=True)
            if objects
        },
    )
