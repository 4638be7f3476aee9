"""Select events of exports by query, each with its proof, and with what says whether they can be all.

The manifests go along: they say of which source a leaf is, and name the coverage documents. They show names, windows
and numbers of what was not selected, never an event of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from holdfast import __version__
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.folders import new_folder
from holdfast.engine.audit.manifest import CHECKPOINT, MANIFEST, DocumentRef, Manifest, Segment
from holdfast.engine.audit.normalisers import normaliser
from holdfast.engine.audit.ocsf.schema import SCHEMA, as_event
from holdfast.engine.audit.prove import proofs_of
from holdfast.engine.audit.segments import EVENTS_SCHEMA, RAW, events_options, read_objects
from holdfast.engine.audit.selection.completeness import Part, answers
from holdfast.engine.audit.selection.documents import (
    EVENTS,
    MOST_EVENTS,
    SELECTION,
    Columns,
    EventRef,
    ExportRef,
    Selection,
    coverage_of,
    manifest_of,
    proof_of,
)
from holdfast.engine.audit.selection.query import Query, matches, undecided
from holdfast.engine.audit.tlog.proofs import format_proof
from holdfast.engine.audit.verify import Verified
from holdfast.errors import ConfigError, UnknownName

_BATCH_ROWS = 20_000


@dataclass
class Found:
    """What a query found.

    Args:
        events: by leaf.
        table: their rows, as their segments have them.
        unclear: per source how many events the query cannot be answered for.
    """

    events: list[EventRef]
    table: pa.Table
    unclear: Counter[str] = field(default_factory=Counter)


def select_events(exports: Sequence[Verified], query: Query, folder: Path) -> Selection:
    """Write a selection into an empty folder.

    Args:
        exports: verified ones of one log, in any order; each one's `Answer.where` is its folder.

    Raises:
        Tampered: one of them is not what was sealed, or they are of different logs.
        ConfigError: the folder is not empty or cannot be written, there are more events than a selection can have, or
            protected ones.
        UnknownName: a source that none of them has.
    """
    parts = usable(exports)
    _refuse_protected(parts)
    found = find_events(parts, query)
    manifests = [_manifest(one) for one in parts]
    with new_folder(folder) as made:
        for name in ("proofs", "manifests", "coverage"):
            (made / name).mkdir()
        refs = [_write_proofs(one, query, found.events, made) for one in parts]
        with pq.ParquetWriter(made / EVENTS, EVENTS_SCHEMA, **events_options()) as writer:
            writer.write_table(found.table)
        selection = Selection(
            version=__version__,
            origin=manifests[0].origin,
            query=query,
            exports=tuple(refs),
            sources=answers(query, [Part(_manifest(one), one.coverage) for one in parts], found.unclear),
            columns=dict(columns_of(manifests, found.events, found.table)),
            events=tuple(found.events),
        )
        (made / SELECTION).write_bytes(selection.to_json())
    return selection


def _refuse_protected(parts: Sequence[Verified]) -> None:
    """A selection shows raw bytes; those of protected subjects lie under their keys."""
    for one in parts:
        for segment in _manifest(one).segments:
            if segment.subjects is not None:
                raise ConfigError(
                    "events of protected subjects cannot be selected yet",
                    where=f"{one.answer.where}/{segment.events.path}",
                    expected="exports without `audit.privacy`",
                    found="protected events",
                    fix="`holdfast audit prove --subject-keys` shows one event; or hand over the export",
                )


def usable(exports: Sequence[Verified]) -> list[Verified]:
    """Oldest first, each once. Raises Tampered."""
    manifests = [one.sealed("is selected") for one in exports]
    roots = {
        (manifest.origin, manifest.seal, one.answer.root) for manifest, one in zip(manifests, exports, strict=True)
    }
    if len({origin for origin, _, _ in roots}) != 1 or len({seal for _, seal, _ in roots}) != len(roots):
        raise Tampered(
            "the exports are not of one log",
            where=", ".join(one.answer.where for one in exports)[:500],
            expected="one origin, and one export for each seal",
            found=", ".join(sorted(f"{origin} seal {seal}" for origin, seal, _ in roots))[:500],
        )
    by_seal = {manifest.seal: one for manifest, one in zip(manifests, exports, strict=True)}
    return [by_seal[seal] for seal in sorted(by_seal)]


def find_events(parts: Sequence[Verified], query: Query) -> Found:
    """Raises ConfigError, UnknownName as `select_events`."""
    known = {source.name for one in parts for source in _manifest(one).sources}
    if missing := sorted(set(query.sources) - known):
        raise UnknownName(
            "there is no such source in the exports",
            where="--source",
            expected=f"one of {', '.join(sorted(known))}",
            found=", ".join(missing)[:200],
        )
    found = Found([], EVENTS_SCHEMA.empty_table())
    tables = [found.table]
    total = 0
    for one in parts:
        for segment in _manifest(one).segments:
            if query.sources and segment.source not in query.sources:
                continue
            rows: list[int] = []
            for at, table, mask in _masked(Path(one.answer.where), segment, query):
                found.unclear[segment.source] += undecided(table, mask)
                hits = pc.indices_nonzero(pc.fill_null(mask, False))
                total += len(hits)
                if total <= MOST_EVENTS and len(hits):
                    rows += [at + row for row in hits.to_pylist()]
                    tables.append(table.take(hits))
            if rows and total <= MOST_EVENTS:
                found.events += _refs(one, segment, rows)
    if total > MOST_EVENTS:
        raise ConfigError(
            "there are more events than a selection can have",
            where="the query",
            expected=f"at most {MOST_EVENTS:,}",
            found=f"{total:,}",
            fix="Ask for a shorter window or a narrower field, several times; or hand over the export itself",
        )
    found.table = pa.concat_tables(tables).combine_chunks()
    return found


def _masked(folder: Path, segment: Segment, query: Query) -> Iterator[tuple[int, pa.Table, pa.Array]]:
    at = 0
    reader = pq.ParquetFile(folder / segment.events.path)
    for batch in reader.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
        table = pa.table(batch).cast(EVENTS_SCHEMA)
        yield at, table, matches(table, query)
        at += len(batch)


def _refs(one: Verified, segment: Segment, rows: Sequence[int]) -> Iterator[EventRef]:
    objects = read_objects(Path(one.answer.where) / segment.objects.path)
    ends = list(accumulate(count for _, count in objects))
    for row in rows:
        yield EventRef(
            leaf=segment.first_leaf + row,
            seal=_manifest(one).seal,
            source=segment.source,
            object_id=objects[bisect_right(ends, row)][0].object_id,
        )


def _write_proofs(one: Verified, query: Query, events: Sequence[EventRef], folder: Path) -> ExportRef:
    """The proofs of an export's events, of its coverage and of its manifest, and these documents."""
    manifest, export = _manifest(one), Path(one.answer.where)
    coverage = [
        document
        for source in manifest.sources
        if (not query.sources or source.name in query.sources) and (document := manifest.document(source.coverage))
    ]
    last = manifest.size - 1
    leaves = [event.leaf for event in events if event.seal == manifest.seal]
    leaves += [last, *(document.leaf for document in coverage)]
    note = (export / CHECKPOINT).read_bytes()
    for leaf, proof in proofs_of(export, manifest, one.left, leaves).items():
        (folder / proof_of(leaf)).write_bytes(format_proof(leaf, proof, note))
    (folder / manifest_of(last)).write_bytes((export / MANIFEST).read_bytes())
    for document in coverage:
        (folder / coverage_of(document.leaf)).write_bytes(_bytes(export, document))
    return ExportRef(
        seal=manifest.seal,
        size=manifest.size,
        root=str(one.answer.root),
        leaf=last,
        coverage=tuple(document.leaf for document in coverage),
    )


def _bytes(export: Path, document: DocumentRef) -> bytes:
    return (export / document.file.path).read_bytes()


def columns_of(
    manifests: Sequence[Manifest], events: Sequence[EventRef], table: pa.Table
) -> Iterator[tuple[str, Columns]]:
    """Per source whether this version makes the OCSF columns of its events from their raw bytes."""
    kinds = {source.name: source.kind for manifest in manifests for source in manifest.sources}
    sources = pa.array([event.source for event in events], pa.string())
    for name in sorted({event.source for event in events}):
        normalise = normaliser(kinds.get(name, ""))
        if normalise is None:
            yield name, "not-at-hand"
            continue
        rows = table.filter(pc.equal(sources, name))
        try:
            made = normalise(rows.column(RAW).combine_chunks()).cast(SCHEMA)
            yield name, "reproduced" if _as_events(made) == _as_events(rows.select(SCHEMA.names)) else "other"
        except (pa.ArrowException, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            yield name, "other"


def _as_events(table: pa.Table) -> list[dict[str, Any]]:
    """Without nulls: a field of nulls and none at all are the same event, and depend on its neighbours."""
    return [as_event(row) for row in table.to_pylist()]


def _manifest(one: Verified) -> Manifest:
    assert one.manifest is not None
    return one.manifest
