"""The leaves of an export, made again from its files: as the log has them, and whether they are the sealed ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from holdfast.engine.audit.checks import CHECKS, Contents
from holdfast.engine.audit.commitments import document_leaf, manifest_leaf
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.manifest import MANIFEST, Manifest, Segment
from holdfast.engine.audit.privacy.keys import SubjectKey
from holdfast.engine.audit.problems import Answer, tampered
from holdfast.engine.audit.segments import read_counts, read_leaves, read_objects
from holdfast.engine.audit.tlog.merkle import CompactRange, cover
from holdfast.errors import HoldfastError

#: Told ``(what, done, of)``.
Progress = Callable[[str, int, int], object]


def export_leaves(folder: Path, manifest: Manifest) -> Iterator[list[bytes]]:
    """Every leaf of an export, in order, in runs."""
    for segment in manifest.segments:
        subjects = folder / segment.subjects.path if segment.subjects else None
        for _, leaves in read_leaves(folder / segment.events.path, subjects):
            yield leaves
    yield [document_leaf((folder / one.file.path).read_bytes()) for one in manifest.documents]
    yield [manifest_leaf((folder / MANIFEST).read_bytes())]


def check_leaves(
    folder: Path,
    manifest: Manifest,
    left: CompactRange,
    before: tuple[bytes, ...],
    answer: Answer,
    progress: Progress,
    keys: Mapping[bytes, SubjectKey] | None,
) -> Contents:
    """Compare every leaf but the manifest's with what was sealed.

    Args:
        left: the compact range of what was sealed before.
        before: the hashes of the compact range of all leaves before the manifest's.
        answer: gets what is wrong.
        progress: told ``(what, done, of)``.
        keys: of subjects, by id: what they protect is opened.

    Returns:
        The contents its objects had, for the checks of the sources' own proofs.
    """
    leaves, contents, done = left, Contents(), 0
    kinds = {source.name: source.kind for source in manifest.sources}
    for segment in manifest.segments:
        try:
            reader = _Segment(folder, segment, contents if kinds.get(segment.source) in CHECKS else None, keys)
            for found in reader.leaves():
                leaves = leaves.append(found)
                done += len(found)
                progress("events", done, answer.counts["events"])
            contents.events_not_opened += reader.not_opened
        except (pa.ArrowException, HoldfastError, OSError, ValueError) as error:
            answer.add(tampered("segment-unreadable", "the segment cannot be read", segment.events.path, None, error))
            return contents
    leaves = leaves.append([document_leaf((folder / one.file.path).read_bytes()) for one in manifest.documents])
    if leaves.hashes != before:
        place = next(
            (span for span, a, b in zip(cover(0, leaves.end), leaves.hashes, before, strict=False) if a != b), (0, 0)
        )
        first = place[1] << place[0]
        answer.add(
            tampered(
                "leaves-differ",
                "the events and documents are not the ones that were sealed",
                _where(manifest, first, first + (1 << place[0])),
                f"root {answer.root}",
                f"another, from leaf {first} on",
            )
        )
    return contents


def _where(manifest: Manifest, begin: int, end: int) -> str:
    paths = [one.events.path for one in manifest.segments if one.first_leaf < end and begin < one.first_leaf + one.rows]
    return ", ".join(paths[:5]) or f"leaves {begin} to {end}"


@dataclass
class _Segment:
    """Reads a segment once: leaves, and where it is wanted the digests of the objects' contents."""

    folder: Path
    segment: Segment
    contents: Contents | None
    keys: Mapping[bytes, SubjectKey] | None
    not_opened: int = 0

    def leaves(self) -> Iterator[list[bytes]]:
        """Runs of leaf hashes. Raises Tampered."""
        events = self.folder / self.segment.events.path
        counts = read_counts(self.folder / self.segment.objects.path)
        if (len(counts), sum(counts)) != (self.segment.object_count, self.segment.rows):
            raise Tampered(
                "the segment's objects are of other events",
                where=self.segment.objects.path,
                expected=f"{self.segment.rows} events of {self.segment.object_count} objects",
                found=f"{sum(counts)} of {len(counts)}",
            )
        hasher = None
        if self.contents is not None:
            hasher = self.contents.of(self.segment.source, read_objects(self.folder / self.segment.objects.path))
        rows = 0
        subjects = self.folder / self.segment.subjects.path if self.segment.subjects else None
        for raw, found in read_leaves(events, subjects, self.keys):
            rows += len(raw)
            self.not_opened += raw.null_count
            if rows > self.segment.rows:
                break
            if hasher is not None:
                hasher.add(raw)
            yield found
        if rows != self.segment.rows:
            raise Tampered(
                "the segment has another number of events",
                where=self.segment.events.path,
                expected=str(self.segment.rows),
                found=f"{rows}{' or more' if rows > self.segment.rows else ''}",
            )
        if hasher is not None:
            hasher.end()
