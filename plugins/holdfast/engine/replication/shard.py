"""Copy a shard of a plan: its objects land at the targets and are noted in the journal there; nothing is published.

The next sync believes the journals as it believes those of a run that was cut off, and so copies only what no shard
brought, proves that everything that was read stood together, and publishes. A shard that is tried again copies only
what it has not noted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.replication.base import find_base
from holdfast.engine.replication.reports import SyncProgress, SyncSite
from holdfast.engine.replication.rounds import Rounds
from holdfast.engine.replication.source import FRESH, STATE, Look, hashed_rows, merge, one_array
from holdfast.engine.replication.target import Run, Target, cut_off_rows
from holdfast.engine.replication.work import plan_round


@dataclass(frozen=True)
class ShardTarget:
    """What a shard did at one target. ``refused`` and ``error`` as in `TargetReport`."""

    site: str
    copied_objects: int
    copied_bytes: int
    refused: str | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.refused is None and self.error is None


@dataclass(frozen=True)
class ShardReport:
    """What a shard did. ``moved_objects`` changed at the source since the plan: the publishing sync takes them."""

    objects: int
    #: Noted by an earlier attempt, so not read again.
    known_objects: int
    moved_objects: int
    read_bytes: int
    targets: tuple[ShardTarget, ...]
    seconds: float


def copy_shard(
    run: Run,
    targets: Sequence[SyncSite],
    rows: pa.Table,
    *,
    progress: Callable[[SyncProgress], None] | None = None,
    threads: int = 16,
    stop: threading.Event | None = None,
) -> ShardReport:
    """Land a shard's objects at the targets, verified as the policy asks, and note them there.

    Args:
        run: the sync it is a part of; each attempt has a ``run_id`` of its own.
        rows: schema `plan.COPIES`: objects of the source in the state the plan saw.

    Raises:
        Interrupted: ``stop`` was set; what has landed is noted.
        StoreUnavailable: the source did not answer; what has landed is noted.
    """
    began = run.clock.monotonic()
    receivers = [Target(run, site) for site in targets]
    for target in receivers:
        target.check_residency()
    base = find_base(run, receivers, write_source=True)
    for target in receivers:
        if target.active:
            with target.trying():
                target.enlist(base.lineage or target.store, None)
    seen, known = _resumed(_seen(rows, base.state), receivers)
    total_bytes = int(pc.sum(rows["size_bytes"]).as_py() or 0)
    done = [0, 0]

    def tell(objects: int, size_bytes: int) -> None:
        done[0], done[1] = done[0] + objects, done[1] + size_bytes
        if progress is not None:
            progress(SyncProgress("copying", done[0], rows.num_rows, done[1], total_bytes))

    work = plan_round(seen, receivers, run.policy)
    try:
        outcomes = Rounds(run, receivers, threads=threads, stop=stop).copy(work, tell) if work.num_rows else []
    finally:
        for target in receivers:
            if target.active and target.enlisted:
                with target.trying():
                    target.journal.flush()
    reports = [target.report() for target in receivers]
    return ShardReport(
        objects=rows.num_rows,
        known_objects=known,
        moved_objects=sum(one.moved for one in outcomes),
        read_bytes=sum(one.read_bytes for one in outcomes),
        targets=tuple(
            ShardTarget(one.site, one.copied_objects, one.copied_bytes, one.refused, one.error) for one in reports
        ),
        seconds=run.clock.monotonic() - began,
    )


def _seen(rows: pa.Table, state: pa.Table) -> Look:
    """A look at the source that shows the shard's objects alone, in the state the plan saw."""
    known = rows.filter(pc.is_valid(rows["digest"]))
    fresh = rows.filter(pc.is_null(rows["digest"]))
    at = pc.index_in(fresh["path"].cast(pa.string()), value_set=one_array(state["path"]))
    before = state["digest"].take(at)
    columns = [before if name == "before" else fresh[name] for name in FRESH.names]
    nothing = STATE.empty_table()
    return Look(
        standing=nothing,
        chosen=_state_rows(known),
        fresh=pa.table(columns, names=FRESH.names).cast(FRESH),
        left_over=nothing,
        inside=pa.array([], pa.string()),
        refused=(),
        listing=nothing,
    )


def _state_rows(rows: pa.Table) -> pa.Table:
    columns = [
        rows[name] if name in rows.schema.names else pa.nulls(rows.num_rows, STATE.field(name).type)
        for name in STATE.names
    ]
    return pa.table(columns, names=STATE.names).cast(STATE).sort_by("path").combine_chunks()


def _resumed(seen: Look, targets: Sequence[Target]) -> tuple[Look, int]:
    """The look with the digests that earlier attempts noted, and how many those are."""
    active = [target for target in targets if target.takes_part]
    noted = cut_off_rows(seen.fresh, active)
    chosen, fresh = seen.chosen, seen.fresh
    if noted.num_rows:
        at = pc.index_in(noted["path"], value_set=one_array(fresh["path"]))
        chosen = merge(chosen, hashed_rows(fresh.take(at), noted["digest"]))
        fresh = fresh.filter(pc.invert(pc.is_in(fresh["path"], value_set=one_array(noted["path"]))))
    seen = Look(seen.standing, chosen, fresh, seen.left_over, seen.inside, seen.refused, seen.listing)
    for target in active:
        target.believe(chosen)
    return seen, int(noted.num_rows)
