"""Sealing: what was collected becomes the next leaves of the log, and an export that proves it.

The order of leaves: every segment's events, every document, and last the manifest, which names them all. The export's
range proof is the compact range of all leaves before it; from that and its own leaves a verifier computes the root, and
the root of the seal before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from holdfast.engine.audit.collect import Unit
from holdfast.engine.audit.commitments import document_leaf, manifest_leaf
from holdfast.engine.audit.coverage import CoverageManifest
from holdfast.engine.audit.interface import AuditSource, Document, Interval
from holdfast.engine.audit.ledger import SealRecord, folder_name, reference
from holdfast.engine.audit.manifest import (
    CHECKPOINT,
    MANIFEST,
    RANGE,
    RANGE_FORMAT,
    DocumentRef,
    Manifest,
    Retention,
    Segment,
    SourceRef,
    Window,
)
from holdfast.engine.audit.tlog.keys import Signer
from holdfast.engine.audit.tlog.merkle import CompactRange
from holdfast.engine.audit.tlog.notes import Checkpoint, sign
from holdfast.engine.snapshot.documents import canonical

_HASH = 32


@dataclass(frozen=True)
class Collected:
    """What one source gave for this seal.

    Args:
        window: what was asked of it for the first time; ``None``: nothing.
        units: what it gave, with what was asked of it again.
        reached: where its window of the seal before ended; ``None``: it was never asked.
    """

    source: AuditSource
    window: Interval | None
    units: tuple[Unit, ...]
    reached: datetime | None = None

    @property
    def coverage(self) -> CoverageManifest:
        """Of all its intervals."""
        found = tuple(one for unit in self.units for one in unit.coverages)
        return CoverageManifest(self.source.name, self.source.kind, found)


@dataclass(frozen=True)
class Sealed:
    """A seal that is not published yet."""

    folder: Path
    manifest: Manifest
    record: SealRecord


@dataclass
class _Leaves:
    """The log's leaves as they are added; with ``keep`` the new ones are written down for the tiles."""

    range: CompactRange
    keep: Callable[[bytes], object] = field(default=lambda _run: None)

    def add(self, run: bytes) -> None:
        self.keep(run)
        self.range = self.range.append([run[at : at + _HASH] for at in range(0, len(run), _HASH)])


def seal(
    folder: Path,
    *,
    origin: str,
    collected: Sequence[Collected],
    documents: Iterable[Document],
    previous: SealRecord | None,
    signers: Sequence[Signer],
    retention: Retention,
    at: datetime,
    by: str,
    keep: Callable[[bytes], object] = lambda _run: None,
) -> Sealed:
    """Make an export in a folder.

    Args:
        folder: empty; the staged files are moved there where they are on the same disk, else copied.
        collected: per source what it gave.
        documents: what belongs to the export itself: drills' evidence, policies, lineage. Names are unique.
        previous: the ledger's newest seal.
        signers: all of them sign the checkpoint.
        keep: told each run of new leaf hashes, in order.

    Raises:
        HoldfastError: a signer failed. Nothing of it counts then.
    """
    before = previous.range if previous else CompactRange()
    leaves = _Leaves(before, keep)
    segments = [_segment(folder, unit, leaves) for one in collected for unit in one.units if unit.objects]
    held = _Documents(folder, leaves)
    sources = [_source(one, held) for one in collected]
    for document in documents:
        held.add(document)
    first_leaf = before.end
    manifest = Manifest(
        origin=origin,
        seal=previous.seal + 1 if previous else 0,
        sealed_at=at,
        sealed_by=by,
        first_leaf=first_leaf,
        size=leaves.range.end + 1,
        previous=previous.as_previous() if previous else None,
        signers=tuple(str(signer.key) for signer in signers),
        retention=retention,
        sources=tuple(sources),
        segments=tuple(segments),
        documents=tuple(held.found),
    )
    encoded = manifest.to_json()
    before_manifest = leaves.range.hashes  # the audit path of the last leaf, from the top down
    leaves.add(manifest_leaf(encoded))
    note = sign(Checkpoint(origin, leaves.range.end, leaves.range.root).text, signers)
    digest = sha256(encoded).hexdigest()
    record = SealRecord(
        origin=origin,
        seal=manifest.seal,
        first_leaf=first_leaf,
        size=manifest.size,
        root=leaves.range.root.hex(),
        frontier=tuple(found.hex() for found in leaves.range.hashes),
        sealed_at=at,
        manifest_sha256=digest,
        folder=folder_name(manifest.seal, digest),
        previous_sha256=sha256(previous.to_json()).hexdigest() if previous else None,
        checkpoint=note.decode(),
    )
    (folder / RANGE).write_bytes(
        canonical(
            {
                "format": RANGE_FORMAT,
                "left": [found.hex() for found in before.hashes],
                "before": [found.hex() for found in before_manifest],
            }
        )
    )
    (folder / MANIFEST).write_bytes(encoded)
    (folder / CHECKPOINT).write_bytes(note)
    return Sealed(folder, manifest, record)


def _segment(folder: Path, unit: Unit, leaves: _Leaves) -> Segment:
    base = f"segments/{unit.source}/{unit.folder.name}"
    _move(unit.events_file, folder / f"{base}.parquet")
    _move(unit.objects_file, folder / f"{base}.objects.parquet")
    if unit.subjects_file is not None:
        _move(unit.subjects_file, folder / f"{base}.subjects.parquet")
    first = leaves.range.end
    for run in unit.leaves():
        leaves.add(run)
    return Segment(
        source=unit.source,
        events=reference(folder, f"{base}.parquet"),
        objects=reference(folder, f"{base}.objects.parquet"),
        subjects=reference(folder, f"{base}.subjects.parquet") if unit.subjects_file else None,
        rows=unit.rows,
        object_count=unit.objects,
        first_leaf=first,
    )


@dataclass
class _Documents:
    folder: Path
    leaves: _Leaves
    found: list[DocumentRef] = field(default_factory=list)

    def add(self, document: Document, *, source: str = "") -> str:
        """Write a document down as a leaf. Returns its path."""
        file = self.folder / document.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(document.data)
        leaf = self.leaves.range.end
        self.leaves.add(document_leaf(document.data))
        self.found.append(
            DocumentRef(
                file=reference(self.folder, document.name),
                leaf=leaf,
                media_type=document.media_type,
                source=source,
                about=dict(sorted(document.about.items())),
            )
        )
        return document.name


def _source(one: Collected, held: _Documents) -> SourceRef:
    name = one.source.name
    coverage = one.coverage
    for unit in one.units:
        for staged in unit.documents:
            path = f"documents/{name}/{unit.folder.name}/{staged.name}"
            held.add(Document(path, staged.media_type, staged.file.read_bytes(), staged.about), source=name)
    path = held.add(Document(f"coverage/{name}.json", "application/json", coverage.encode()), source=name)
    return SourceRef(
        name=name,
        kind=one.source.kind,
        state=coverage.state,
        window=_window(one),
        records=sum(unit.rows for unit in one.units),
        coverage=path,
    )


def _window(one: Collected) -> Window | None:
    """An empty one where nothing was asked: the next seal goes on from there."""
    if one.window is not None:
        return Window(start=one.window.start, end=one.window.end)
    return Window(start=one.reached, end=one.reached) if one.reached is not None else None


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)  # the staged one stays until the seal is published: a run that is killed begins here
    except OSError:
        shutil.copyfile(source, target)
