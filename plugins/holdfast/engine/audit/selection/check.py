"""Check a selection offline: every event against the signed checkpoint, and what it says of being complete.

What is in it is proven. That nothing was left out of it, whoever made it says: with the exports at hand the query is
asked again (`against`), without them nothing can show it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from holdfast import __version__
from holdfast.engine.audit.commitments import document_leaf, event_leaves, manifest_leaf
from holdfast.engine.audit.coverage import CoverageManifest, parse_coverage
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.interface import State
from holdfast.engine.audit.manifest import Manifest, parse_manifest
from holdfast.engine.audit.problems import Answer, Kind, Problem, not_pinned, of_error, of_state, tampered
from holdfast.engine.audit.segments import EVENTS_SCHEMA, RAW
from holdfast.engine.audit.selection.completeness import Part, answers
from holdfast.engine.audit.selection.documents import (
    EVENTS,
    SELECTION,
    ExportRef,
    Selection,
    coverage_of,
    manifest_of,
    parse_selection,
    proof_of,
    read_file,
)
from holdfast.engine.audit.selection.query import matches
from holdfast.engine.audit.selection.select import columns_of, find_events, usable
from holdfast.engine.audit.tlog.keys import VerifierKey
from holdfast.engine.audit.tlog.notes import Checkpoint, Policy, verify_checkpoint
from holdfast.engine.audit.tlog.proofs import Proof
from holdfast.engine.audit.tlog.treeproofs import verify_inclusion
from holdfast.engine.audit.verify import Verified
from holdfast.errors import HoldfastError

_ODD = (HoldfastError, pa.ArrowException, OSError, ValueError, ArithmeticError, TypeError)


def check_selection(
    folder: Path,
    *,
    trusted: Sequence[VerifierKey] = (),
    needed: int | None = None,
    against: Sequence[Verified] = (),
) -> Answer:
    """Check what `select_events` wrote.

    Args:
        trusted, needed: as for `verify_export`.
        against: the exports it was made of, verified: then it is also shown that nothing was left out.

    Raises:
        ConfigError: so many keys cannot have signed.
    """
    answer = Answer(str(folder))
    checking = _Checking(folder, answer, trusted, needed)
    try:
        selection = parse_selection(read_file(folder, SELECTION), SELECTION)
        parts = [checking.export(ref, selection) for ref in selection.exports]
    except HoldfastError as error:
        answer.add(of_error(error, "selection", str(folder)))
        return answer
    answer.origin = selection.origin
    newest = selection.exports[-1]
    answer.seal, answer.size, answer.root = newest.seal, newest.size, newest.root
    if not trusted:
        answer.add(not_pinned(str(folder)))
    answer.counts = {"events": len(selection.events), "documents": sum(len(ref.coverage) for ref in selection.exports)}
    _check_order(selection, answer)
    _check_files(folder, selection, answer)
    try:
        table = checking.events(selection, [part.manifest for part in parts])
        _check_query(selection, table, answer)
        _check_columns(selection, [part.manifest for part in parts], table, answer)
    except _ODD as error:
        answer.add(_unreadable(error))
    _check_answers(selection, parts, answer)
    _compare(selection, against, answer)
    return answer


def _unreadable(error: Exception) -> Problem:
    if isinstance(error, HoldfastError):
        return of_error(error, "events-differ", EVENTS)
    return tampered("events-unreadable", "the events cannot be read", EVENTS, None, error)


class _Checking:
    """Proofs against checkpoints, each of which is verified once."""

    def __init__(self, folder: Path, answer: Answer, trusted: Sequence[VerifierKey], needed: int | None) -> None:
        self._folder, self._answer = folder, answer
        self._policy = Policy.trusting(trusted, needed) if trusted else None
        self._notes: dict[int, tuple[bytes, Checkpoint]] = {}

    def export(self, ref: ExportRef, selection: Selection) -> Part:
        """An export's manifest and coverage, proven. Raises Tampered, NoteRefused, ProofRefused."""
        where = manifest_of(ref.leaf)
        encoded = read_file(self._folder, where)
        manifest = parse_manifest(encoded, where)
        found = (manifest.origin, manifest.seal, manifest.size, manifest.size - 1)
        if found != (selection.origin, ref.seal, ref.size, ref.leaf):
            raise Tampered(
                "the manifest is of another seal than the selection says",
                where=where,
                expected=f"{selection.origin} seal {ref.seal}, {ref.size} leaves",
                found=f"{manifest.origin} seal {manifest.seal}, {manifest.size} leaves",
            )
        note = Proof.parse(read_file(self._folder, proof_of(ref.leaf))).checkpoint
        sealers = Policy.of(*(VerifierKey.parse(text) for text in manifest.signers))
        checkpoint, _ = verify_checkpoint(note, manifest.origin, sealers)
        if (checkpoint.size, checkpoint.root.hex()) != (ref.size, ref.root):
            raise Tampered(
                "the checkpoint is not the one the selection names",
                where=proof_of(ref.leaf),
                expected=f"{ref.size} leaves, root {ref.root}",
                found=f"{checkpoint.size} leaves, root {checkpoint.root.hex()}",
            )
        if self._policy:
            _, verified = verify_checkpoint(note, manifest.origin, self._policy)
            self._answer.signed_by = [key.name for key in verified.signed_by]
        self._notes[ref.seal] = note, checkpoint
        self._check_leaf(ref.seal, ref.leaf, manifest_leaf(encoded))
        return Part(manifest, self._coverage(ref, manifest, selection))

    def _coverage(self, ref: ExportRef, manifest: Manifest, selection: Selection) -> list[CoverageManifest]:
        asked = selection.query.sources
        wanted = [
            document
            for source in manifest.sources
            if (not asked or source.name in asked) and (document := manifest.document(source.coverage))
        ]
        if [document.leaf for document in wanted] != list(ref.coverage):
            raise Tampered(
                "the coverage of the sources asked is not all there",
                where=f"seal {ref.seal}",
                expected=f"leaves {[document.leaf for document in wanted]}",
                found=f"leaves {list(ref.coverage)}",
            )
        found = []
        for document in wanted:
            data = read_file(self._folder, coverage_of(document.leaf))
            self._check_leaf(ref.seal, document.leaf, document_leaf(data))
            found.append(parse_coverage(data, coverage_of(document.leaf)))
        return found

    def _check_leaf(self, seal: int, leaf: int, found: bytes) -> None:
        """Raises Tampered, ProofRefused unless it is at its place below the seal's checkpoint."""
        note, checkpoint = self._notes[seal]
        proof = Proof.parse(read_file(self._folder, proof_of(leaf)))
        if proof.index != leaf or proof.checkpoint != note:
            raise Tampered(
                "the proof is of another leaf, or of another export",
                where=proof_of(leaf),
                expected=f"leaf {leaf} below the checkpoint of seal {seal}",
                found=f"leaf {proof.index}" if proof.index != leaf else "another checkpoint",
            )
        verify_inclusion(found, leaf, checkpoint.size, proof.hashes, checkpoint.root)

    def events(self, selection: Selection, manifests: Sequence[Manifest]) -> pa.Table:
        """The events, each proven. Raises Tampered and what Arrow does where they cannot be read at all."""
        reader = pq.ParquetFile(self._folder / EVENTS)
        if reader.metadata.num_rows != len(selection.events) or not reader.schema_arrow.equals(EVENTS_SCHEMA):
            raise Tampered(
                "the events are not those the selection lists",
                where=EVENTS,
                expected=f"{len(selection.events)} events with the columns of a segment",
                found=f"{reader.metadata.num_rows} events",
            )
        table = reader.read(use_threads=False)
        spans = {
            manifest.seal: [(one.first_leaf, one.first_leaf + one.rows, one.source) for one in manifest.segments]
            for manifest in manifests
        }
        found = event_leaves(table.column(RAW).combine_chunks())
        for event, leaf in zip(selection.events, found, strict=True):
            inside = spans.get(event.seal, [])
            if not any(a <= event.leaf < b and event.source == source for a, b, source in inside):
                what = f"leaf {event.leaf} is no event of {event.source} in seal {event.seal}"
                self._answer.add(tampered("not-of-source", what, f"{SELECTION} leaf {event.leaf}"))
                continue
            try:
                self._check_leaf(event.seal, event.leaf, leaf)
            except HoldfastError as error:
                self._answer.add(of_error(error, "not-proven", proof_of(event.leaf)))
        return table


def _check_order(selection: Selection, answer: Answer) -> None:
    """Each event once, each seal once, in order."""
    leaves = [event.leaf for event in selection.events]
    seals = [ref.seal for ref in selection.exports]
    for what, found in (("events", leaves), ("exports", seals)):
        if any(later <= earlier for earlier, later in pairwise(found)):
            answer.add(tampered("not-in-order", f"the {what} are not each once and in order", SELECTION))


def _check_files(folder: Path, selection: Selection, answer: Answer) -> None:
    documents = [leaf for ref in selection.exports for leaf in ref.coverage]
    manifests = [ref.leaf for ref in selection.exports]
    proven = [*(event.leaf for event in selection.events), *documents, *manifests]
    known = {SELECTION, EVENTS, *map(coverage_of, documents), *map(manifest_of, manifests), *map(proof_of, proven)}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place) / name
            at = path.relative_to(folder).as_posix()
            if path.is_symlink():
                answer.add(tampered("not-a-file", "neither a file nor a folder", at))
            elif name in files and at not in known:
                answer.add(tampered("file-added", "the selection has no such file", at))


def _check_query(selection: Selection, table: pa.Table, answer: Answer) -> None:
    found = pc.fill_null(matches(table, selection.query), False).to_pylist()
    sources = selection.query.sources
    for event, fits in zip(selection.events, found, strict=True):
        if not fits or (sources and event.source not in sources):
            where = f"{EVENTS} leaf {event.leaf}"
            answer.add(tampered("not-asked-for", "the event is not what the query asks for", where))


def _check_columns(selection: Selection, manifests: Sequence[Manifest], table: pa.Table, answer: Answer) -> None:
    for name, found in columns_of(manifests, selection.events, table):
        said = selection.columns.get(name)
        if found == "not-at-hand":
            answer.notes.append(f"The OCSF columns of {name} are not proven, its raw bytes are: see `raw`")
        elif found == "other" and said == "reproduced" and selection.version == __version__:
            answer.add(
                tampered("columns-differ", "the OCSF columns are not what the raw bytes give", f"{EVENTS} {name}")
            )
        elif found == "other":
            what = f"the OCSF columns are not what version {__version__} makes of the raw bytes, which are proven"
            answer.add(Problem(Kind.UNKNOWN, "columns-of-another-version", what, f"{EVENTS} {name}"))


def _check_answers(selection: Selection, parts: Sequence[Part], answer: Answer) -> None:
    """Whether the selection can be complete, judged anew; it is a problem where it cannot."""
    unclear = {one.source: one.undecided for one in selection.sources}
    judged = answers(selection.query, parts, unclear)
    if judged != selection.sources:
        answer.add(tampered("answers-differ", "the coverage does not say what the selection claims", SELECTION))
    for one in judged:
        answer.sources[one.source] = str(one.state)
        for interval in one.intervals:
            if interval.state is not State.COMPLETE:
                at = f"{one.source} {interval.start:%Y-%m-%dT%H:%M:%SZ}"
                answer.add(*of_state(interval.state, f"coverage-{interval.state}", interval.why, at))
        if one.undecided:
            what = f"the query cannot be answered for {one.undecided} events: no time, or not understood"
            answer.add(Problem(Kind.UNKNOWN, "undecided", what, one.source))
        if not one.intervals:
            answer.add(Problem(Kind.UNKNOWN, "not-asked", "no interval of the source is of this window", one.source))


def _compare(selection: Selection, against: Sequence[Verified], answer: Answer) -> None:
    """Against the exports: whether anything was left out."""
    if not against:
        answer.notes.append("That nothing was left out, only the exports themselves can show: --export")
        return
    try:
        parts = usable(against)
        roots = {one.answer.seal: one.answer.root for one in parts}
        if differing := [ref.seal for ref in selection.exports if roots.get(ref.seal) != ref.root]:
            raise Tampered(
                "these are not the exports it was selected from", where=SELECTION, found=f"seals {differing}"
            )
        seals = {ref.seal for ref in selection.exports}
        found = find_events([one for one in parts if one.answer.seal in seals], selection.query)
    except HoldfastError as error:
        answer.add(of_error(error, "against", str(answer.where)))
        return
    left_out = {event.leaf for event in found.events} - {event.leaf for event in selection.events}
    if left_out:
        what = f"{len(left_out)} events that the query asks for were left out"
        answer.add(tampered("left-out", what, SELECTION, None, f"leaves {sorted(left_out)[:10]}"))
    elif tuple(found.events) != selection.events:
        answer.add(tampered("events-differ", "the exports say otherwise of the events", SELECTION))
    said = {one.source: one.undecided for one in selection.sources}
    if any(found.unclear[source] != count for source, count in said.items()):
        answer.add(tampered("undecided-differs", "more or fewer events could not be decided", SELECTION))
