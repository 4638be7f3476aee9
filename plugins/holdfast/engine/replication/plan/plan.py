"""A sync's plan: what would be read, what each target would get, lose or be refused, what it would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config import Residency, Site
from holdfast.engine.config.sync import Sync
from holdfast.engine.policy import ResidencyRefused, check_hop
from holdfast.engine.replication.plan.changes import plan_changes
from holdfast.engine.replication.plan.documents import (
    DeletesSummary,
    PlanDocument,
    PlanTables,
    TargetSummary,
    tables_of,
)
from holdfast.engine.replication.plan.estimate import estimate, looks_truncated, measured
from holdfast.engine.replication.plan.schema import ACTIONS, Action, Reason, counts, rows_of, where
from holdfast.engine.replication.plan.targets import ordered, work_at

Measured = float | Mapping[str, float] | None


@dataclass(frozen=True)
class TargetPlan:
    """What a sync would do at one target. ``None``: not known.

    ``copy_*`` is what would be sent at most: bytes the target has already under another version are found by their
    digest on the way. With ``refused`` nothing is copied, and ``copy_*`` is 0.
    """

    site: str
    refused: str | None
    copy_objects: int
    copy_bytes: int
    keep_objects: int
    keep_bytes: int
    delete_objects: int
    refuse_objects: int
    refuse_bytes: int
    egress_cost: float | None
    expected_seconds: float | None
    at_least_seconds: float | None
    work: pa.Table = field(repr=False, compare=False)


@dataclass(frozen=True)
class SyncPlan:
    """What a sync would do. Its id is the digest of everything it says.

    ``changes`` has schema `ACTIONS`; of a plan that was stored and loaded again it lacks the rows that are kept.
    ``suspect`` says why the source's listing looks cut off; then nothing may be deleted by it.
    """

    dataset: str
    folder: str
    source_site: str
    made_at: datetime
    based_on: str | None
    targets: tuple[TargetPlan, ...]
    suspect: str | None
    deletes: DeletesSummary
    counts: Mapping[str, Mapping[str, tuple[int, int]]]
    changes: pa.Table = field(repr=False, compare=False)
    #: The document it was loaded from.
    stored: PlanDocument | None = field(default=None, repr=False, compare=False)

    @property
    def plan_id(self) -> str:
        """32 hex digits; made of the content, so the same plan has the same id."""
        return self.document.plan_id

    @property
    def copy_objects(self) -> int:
        """Objects that would be read at the source: each once, however many targets lack it."""
        return int(self.copies.num_rows)

    @property
    def copy_bytes(self) -> int:
        return int(pc.sum(self.copies["size_bytes"]).as_py() or 0)

    def target(self, site: str) -> TargetPlan:
        """One target's plan. Raises KeyError."""
        return {target.site: target for target in self.targets}[site]

    def actions(self, site: str) -> pa.Table:
        """What has to be done at a target: copy, delete and refuse, schema `ACTIONS`. What is kept is not listed."""
        return self.target(site).work

    @cached_property
    def copies(self) -> pa.Table:
        """Every object that would be read, once: schema `COPIES`, whose ``targets`` names who lacks it."""
        return copies_of({target.site: target.work for target in self.targets})

    @cached_property
    def tables(self) -> PlanTables:
        """The plan's tables as they are stored."""
        changes = self.changes.filter(pc.not_equal(self.changes["action"], Action.KEEP.value))
        return tables_of({"changes": changes, **{f"targets/{target.site}": target.work for target in self.targets}})

    @cached_property
    def document(self) -> PlanDocument:
        """The plan without its rows, as it is stored."""
        return self.stored or PlanDocument.seal(
            dataset=self.dataset,
            folder=self.folder,
            source_site=self.source_site,
            made_at=self.made_at,
            based_on=self.based_on,
            suspect=self.suspect,
            copy_objects=self.copy_objects,
            copy_bytes=self.copy_bytes,
            counts={action: {why: list(pair) for why, pair in rows.items()} for action, rows in self.counts.items()},
            deletes=self.deletes,
            targets=tuple(_summary(target) for target in self.targets),
            tables=self.tables.digests,
        )

    def to_json(self) -> dict[str, Any]:
        """A summary for ``--dry-run`` and ``--json``: counts, bytes, cost, time, refusals; no rows."""
        return dict(self.document.model_dump(mode="json", exclude={"tables"}))


#: A copy and who lacks it: site names joined by commas, in the plan's order.
COPIES = ACTIONS.append(pa.field("targets", pa.dictionary(pa.int32(), pa.string()), nullable=False)).with_metadata(
    {b"format": b"holdfast.sync-shard/1"}
)


def plan_sync(
    source_listing: pa.Table,
    known: pa.Table | None,
    bases: Mapping[str, pa.Table | None],
    *,
    dataset: str,
    folder: str,
    policy: Sync,
    residency: Residency | None,
    topology_sites: Mapping[str, Site],
    source_site: str,
    now: datetime,
    measured_bytes_per_second: Measured = None,
    measured_objects_per_second: Measured = None,
    versions_identify: bool = True,
    based_on: str | None = None,
) -> SyncPlan:
    """Plan a sync without asking any store.

    Args:
        source_listing: everything under ``data/<folder>/`` at the source, schema `LISTING`.
        known: where the last snapshot's objects lie at the source: a placement's or a manifest's columns.
        bases: per target what its newest snapshot has; ``None``: it has none.
        now: the wall clock.
        measured_bytes_per_second, measured_objects_per_second: of earlier runs, one number or one per target.
            ``None``: not measured, and so is the expected time.
        versions_identify: as for `plan_changes`.
        based_on: the id of the snapshot that ``known`` is of.

    Raises:
        PathsCollide: renames bring two objects to one path.
    """
    changes = plan_changes(
        source_listing, known, folder=folder, policy=policy, now=now, versions_identify=versions_identify
    )
    by_reason = counts(changes)
    targets = tuple(
        _target(
            site,
            changes,
            base,
            refused=_refusal(dataset, residency, source_site, site, topology_sites),
            sites=topology_sites,
            source_site=source_site,
            bytes_per_second=measured(measured_bytes_per_second, site),
            objects_per_second=measured(measured_objects_per_second, site),
        )
        for site, base in bases.items()
    )
    return SyncPlan(
        dataset=dataset,
        folder=folder,
        source_site=source_site,
        made_at=now,
        based_on=based_on,
        targets=targets,
        suspect=_suspicion(changes, by_reason),
        deletes=_deletes(policy, by_reason),
        counts=_nested(by_reason),
        changes=changes,
    )


def _refusal(
    dataset: str, residency: Residency | None, source: str, site: str, sites: Mapping[str, Site]
) -> str | None:
    try:
        check_hop(dataset, residency, site, sites, source=source, preview=True)
    except ResidencyRefused as error:
        return str(error)
    return None


def _target(
    site: str,
    changes: pa.Table,
    base: pa.Table | None,
    *,
    refused: str | None,
    sites: Mapping[str, Site],
    source_site: str,
    bytes_per_second: float | None,
    objects_per_second: float | None,
) -> TargetPlan:
    work, keep_objects, keep_bytes = work_at(changes, base, refused=refused is not None)
    copies, refusals = rows_of(work, Action.COPY), rows_of(work, Action.REFUSE)
    cost = estimate(
        sites.get(source_site),
        sites.get(site),
        copy_objects=copies.num_rows,
        copy_bytes=_bytes(copies),
        bytes_per_second=bytes_per_second,
        objects_per_second=objects_per_second,
    )
    return TargetPlan(
        site=site,
        refused=refused,
        copy_objects=copies.num_rows,
        copy_bytes=_bytes(copies),
        keep_objects=keep_objects,
        keep_bytes=keep_bytes,
        delete_objects=rows_of(work, Action.DELETE).num_rows,
        refuse_objects=refusals.num_rows,
        refuse_bytes=_bytes(refusals),
        egress_cost=cost.egress_cost,
        expected_seconds=cost.expected_seconds,
        at_least_seconds=cost.at_least_seconds,
        work=work,
    )


def _bytes(rows: pa.Table) -> int:
    return int(pc.sum(rows["size_bytes"]).as_py() or 0)


def _suspicion(changes: pa.Table, by_reason: Mapping[tuple[Action, Reason], tuple[int, int]]) -> str | None:
    """Whether the listing looks cut off. What a filter leaves out was listed."""
    gone = (Action.DELETE, Reason.REMOVED)
    removed = by_reason.get(gone, (0, 0))[0]
    listed = sum(objects for row, (objects, _) in by_reason.items() if row != gone)
    still = sum(
        objects
        for (action, reason), (objects, _) in by_reason.items()
        if action is Action.KEEP or reason in (Reason.CHANGED, Reason.FILTERED)
    )
    return looks_truncated(listed=listed, known=removed + still, removed=removed, tail=_tail(changes) if removed else 0)


def _tail(changes: pa.Table) -> int:
    """How many known objects lay, at the source, after the last object that the listing shows."""
    gone = pc.and_(pc.equal(changes["action"], Action.DELETE.value), pc.equal(changes["reason"], Reason.REMOVED.value))
    last = pc.max(changes["key"].filter(pc.invert(gone)))
    if not last.is_valid:
        return 0
    return int(pc.sum(pc.greater(changes["key"].filter(gone), last)).as_py() or 0)


def _deletes(policy: Sync, by_reason: Mapping[tuple[Action, Reason], tuple[int, int]]) -> DeletesSummary:
    gone = sum(objects for (action, _), (objects, _) in by_reason.items() if action is Action.DELETE)
    known = gone + sum(
        objects
        for (action, reason), (objects, _) in by_reason.items()
        if action is Action.KEEP or reason is Reason.CHANGED
    )
    rules = policy.deletes
    share = gone / known if known else 0.0
    return DeletesSummary(
        enabled=rules.enabled,
        objects=gone,
        share=share,
        needs_approval=rules.enabled and bool(gone) and (gone > rules.most_objects or share > rules.most_share),
    )


def _nested(
    by_reason: Mapping[tuple[Action, Reason], tuple[int, int]],
) -> dict[str, dict[str, tuple[int, int]]]:
    nested: dict[str, dict[str, tuple[int, int]]] = {}
    for (action, reason), pair in by_reason.items():
        nested.setdefault(action.value, {})[reason.value] = pair
    return nested


def _summary(target: TargetPlan) -> TargetSummary:
    return TargetSummary(**{name: getattr(target, name) for name in TargetSummary.model_fields})


def copies_of(work: Mapping[str, pa.Table]) -> pa.Table:
    """The copies of several targets as one table: each path once, with the sites that lack it."""
    copies = {site: rows_of(rows, Action.COPY) for site, rows in work.items()}
    union = ACTIONS.empty_table()
    for rows in copies.values():
        if not rows["path"].equals(union["path"]):
            fresh = pc.invert(pc.is_in(rows["path"], value_set=union["path"]))
            union = pa.concat_tables([union, where(fresh, rows)])
    lacks = pa.chunked_array([pa.repeat(pa.scalar("", pa.string()), union.num_rows)])
    for site, rows in copies.items():
        if not rows.num_rows:
            continue
        name, comma = pa.scalar(site), pa.scalar(",")
        longer = pc.if_else(pc.equal(lacks, ""), name, pc.binary_join_element_wise(lacks, name, comma))
        everything = rows["path"].equals(union["path"])
        lacks = longer if everything else pc.if_else(pc.is_in(union["path"], value_set=rows["path"]), longer, lacks)
    words = lacks.combine_chunks().dictionary_encode()
    return ordered(pa.table([*union.columns, words], schema=COPIES))
