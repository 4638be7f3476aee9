"""What a sync builds on: the snapshot it follows, and what is known of the source's objects without reading them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.replication.plan.filters import renamed
from holdfast.engine.replication.source import STATE
from holdfast.engine.replication.target import Run, Target
from holdfast.engine.snapshot.errors import LineageError, Superseded
from holdfast.engine.snapshot.manifest import Manifest
from holdfast.engine.snapshot.placement import SCHEMA, locate_table
from holdfast.engine.snapshot.read import load_manifest
from holdfast.engine.snapshot.records import CommitRecord, latest


@dataclass(frozen=True)
class Base:
    """Where a sync begins."""

    #: The snapshot the next one follows; ``None``: it is the first.
    record: CommitRecord | None
    #: What is known of the source's objects: schema `STATE`, sorted by path.
    state: pa.Table
    #: A bucket that knows the dataset's lineage; ``None``: none does yet.
    lineage: ObjectStore | None
    manifest: Manifest | None = None


def find_base(run: Run, targets: Sequence[Target], *, write_source: bool) -> Base:
    """The newest selectable snapshot of the source, or of the targets for a source that has none or may not have any.

    Raises:
        EpochUnknownHere: the source has snapshots but does not know the epoch.
        StoreUnavailable: the source did not answer.
    """
    empty = STATE.empty_table()
    if write_source:
        store = run.source.store
        record = latest(store, run.dataset, epoch=run.epoch)
        if record is not None:
            if record.path != run.folder:
                return Base(record, empty, store)
            manifest = load_manifest(store, record)
            return Base(record, locate_table(store, record, manifest).cast(STATE), store, manifest)
    newest = max(_newest(run, targets), key=lambda pair: pair[1].committed_at, default=None)
    record = None if newest is None else newest[1]
    if newest is None or record is None:
        return Base(None, empty, run.source.store if write_source else None)
    target, state, base_manifest = newest[0], empty, None
    if (record.path, record.site) == (run.folder, run.source.site):
        with target.trying():
            base_manifest = load_manifest(target.store, record)
            state = _as_at_source(run, base_manifest)
    if write_source:
        return Base(None, state, run.source.store)
    return Base(record, state, target.store, base_manifest)


def refuse_superseded(run: Run, targets: Sequence[Target], base: Base) -> None:
    """For a source that may only be read: raises Superseded when a target shows a newer snapshot than the base."""
    for target, record in _newest(run, targets):
        if base.record is None or record.committed_at > base.record.committed_at:
            raise Superseded(
                "another snapshot was published meanwhile",
                where=f"{target.store.name}: {run.dataset}",
                expected=f"{base.record.snapshot_id if base.record else 'nothing'} as the newest snapshot",
                found=f"snapshot {record.snapshot_id}",
                fix="Run it again: it goes by what is the newest then. Nothing of this run is visible",
            )


def _newest(run: Run, targets: Sequence[Target]) -> Iterator[tuple[Target, CommitRecord]]:
    """Each active target's newest selectable snapshot."""
    for target in targets:
        if target.active:
            with target.trying():
                try:
                    record = latest(target.store, run.dataset, epoch=run.epoch)
                except LineageError:
                    continue
                if record is not None:
                    yield target, record


def _as_at_source(run: Run, manifest: Manifest) -> pa.Table:
    """A manifest names the versions its objects had at the site where it was taken: the source."""
    table = manifest.table
    own = pc.binary_join_element_wise(pa.scalar(run.prefix), table["path"], pa.scalar(""))
    if run.policy.rename:
        own = _keys_before_rename(run, table["path"])
    columns = []
    for name in STATE.names:
        if name == "key":
            columns.append(own)
        elif name in table.schema.names:
            columns.append(table[name])
        else:
            columns.append(pa.nulls(table.num_rows, SCHEMA.field(name).type))
    state = pa.table(columns, names=STATE.names).cast(STATE)
    return state.filter(pc.is_valid(state["key"]))


def _keys_before_rename(run: Run, paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """The source's keys of these paths, found by renaming what lies there now."""
    listed = pa.chunked_array([[info.key for info in run.source.store.list(run.prefix)]], pa.large_string())
    relative = pc.utf8_slice_codeunits(listed, start=len(run.prefix))
    here = renamed(relative, run.policy.rename).cast(pa.string()).combine_chunks()
    return listed.cast(pa.string()).take(pc.index_in(paths, value_set=here))
