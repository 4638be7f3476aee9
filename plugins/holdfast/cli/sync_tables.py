"""What ``holdfast sync`` prints for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from holdfast.cli.output import console
from holdfast.engine.pipeline.conflicts import ConflictReport
from holdfast.engine.pipeline.going_back import RollbackReport
from holdfast.engine.pipeline.planning import PlannedSync
from holdfast.engine.pipeline.removals import Cleaned
from holdfast.engine.pipeline.replicas import DatasetStatus, SiteStatus, SiteVerification
from holdfast.engine.replication.plan import TargetPlan
from holdfast.engine.replication.reports import MergeReport, Refusal
from holdfast.engine.replication.sync import SyncReport, TargetReport
from holdfast.engine.snapshot import CommitRecord, Diff

#: So many paths are named; ``--json`` has all.
_PATHS = 20


def print_plan(planned: PlannedSync) -> None:
    """What a sync would do, per target."""
    plan = planned.plan
    console.print(
        f"{plan.dataset}: {plan.copy_objects} objects ({decimal(plan.copy_bytes)}) would be read at "
        f"{plan.source_site}; plan {plan.plan_id}",
        markup=False,
    )
    for action, reasons in plan.counts.items():
        said = ", ".join(f"{reason} {pair[0]} ({decimal(pair[1])})" for reason, pair in reasons.items())
        console.print(f"  {action}: {said}", markup=False)
    table = Table("site", "copy", "size", "keep", "gone", "refused", "egress cost", "time", "", box=None)
    for one in plan.targets:
        table.add_row(
            one.site,
            str(one.copy_objects),
            decimal(one.copy_bytes),
            str(one.keep_objects),
            str(one.delete_objects),
            str(one.refuse_objects),
            "unknown" if one.egress_cost is None else f"{one.egress_cost:.2f}",
            _time(one),
            escape(one.refused or ""),
        )
    for site, error in planned.unreachable.items():
        table.add_row(site, *["?"] * 7, escape(error))
    console.print(table)
    _print_refused("would not be in the snapshot", planned.refused_objects)
    for site, found in planned.not_held.items():
        _print_refused(f"cannot be kept at {site}, which would stay without the snapshot", found)
    if plan.suspect is not None:
        console.print(f"The source's listing looks cut off: {plan.suspect}", style="yellow", markup=False)
    if plan.deletes.objects:
        rule = "would be marked for removal" if plan.deletes.enabled else "stay at the replicas (deletes are off)"
        person = "; a person must confirm it" if plan.deletes.needs_approval else ""
        console.print(f"{plan.deletes.objects} objects left the source and {rule}{person}", markup=False)


def print_report(dataset: str, report: SyncReport) -> None:
    """What a sync did, per target."""
    what = "nothing had changed at" if report.record is None else f"{report.changed_objects} objects changed at"
    console.print(
        f"{dataset}: snapshot {report.snapshot_id}; {what} {report.source_site} "
        f"({decimal(report.read_bytes)} read, {report.seconds:.1f} s)",
        markup=False,
    )
    if report.planned_from == "feed":
        console.print(
            "  planned from the change feed: nothing proves that all objects stood together at one moment; the next "
            f"full listing does. Last full look: {report.last_full_look or 'not known'}",
            style="yellow",
            markup=False,
        )
    if report.merge is not None:
        _print_merge(report.source_site, report.merge)
    _print_targets(report.targets)
    _print_refused("not in the snapshot", report.refused_objects)


def _print_refused(what: str, refused: Sequence[Refusal]) -> None:
    if not refused:
        return
    console.print(f"{len(refused)} objects {what}:", style="yellow", markup=False)
    for one in refused[:_PATHS]:
        console.print(f"  {one.path!a}: {one.reason}", style="yellow", markup=False)
    if len(refused) > _PATHS:
        console.print("  … and more; --json names all")


def _print_merge(active: str, merge: MergeReport) -> None:
    """What came of both sites' changes, and who was overruled."""
    console.print(
        f"  merged with {merge.peer} since snapshot {merge.common_snapshot_id}: {merge.from_active_objects} changes of "
        f"{active}, {merge.from_peer_objects} of {merge.peer}, {merge.same_objects} the same at both; "
        f"{merge.removed_objects} objects left",
        markup=False,
    )
    if merge.finished_snapshot_id is not None:
        console.print(f"  finished at {merge.peer} what an earlier run began: snapshot {merge.finished_snapshot_id}")
    if merge.overruled:
        console.print(f"{len(merge.overruled)} overruled, {merge.winner} wins:", style="yellow", markup=False)
    for one in merge.overruled[:_PATHS]:
        lies = "its removal" if one.key is None else f"{one.digest} stays at {one.site}: {one.key}"
        console.print(f"  {one.path!a}: {one.what} at {one.site}; {lies}", style="yellow", markup=False)
    if len(merge.overruled) > _PATHS:
        console.print("  … and more; --json names all")
    _print_refused(f"at {merge.peer} not in the snapshot", merge.refused_at_peer)


def _print_targets(targets: Sequence[TargetReport]) -> None:
    table = Table("site", "", "copied", "size", "carried", "verified", "detail", box=None)
    for one in targets:
        detail = one.error or one.refused or "; ".join(one.losses)
        table.add_row(
            one.site,
            _mark(one),
            str(one.copied_objects),
            decimal(one.copied_bytes),
            str(one.carried_objects),
            str(one.verified_objects),
            escape(detail),
        )
    console.print(table)


def print_status(found: DatasetStatus) -> None:
    """Where each site stands with a dataset."""
    console.print(f"{found.dataset} of {found.group}, epoch {found.epoch}", markup=False)
    table = Table(
        "site",
        "role",
        "snapshot",
        "taken",
        "objects",
        "size",
        "lag",
        "known",
        "verified",
        "point in time",
        "",
        box=None,
    )
    for one in found.sites:
        table.add_row(
            one.site,
            one.role,
            (one.snapshot_id or "-")[:12],
            _when(one.taken_at),
            _number(one.objects),
            "-" if one.size_bytes is None else decimal(one.size_bytes),
            _lag(one),
            "-" if one.behind_seconds is None else f"{one.behind_seconds:.0f} s ago",
            _when(one.verified_at),
            _guarantee(one),
            escape(_remark(one)),
        )
    console.print(table)


def print_verified(found: Mapping[str, Sequence[SiteVerification]]) -> None:
    """What reading replicas back found."""
    table = Table("dataset", "site", "", "snapshot", "objects", "size", "missing", "corrupt", "detail", box=None)
    damaged: list[str] = []
    for dataset, sites in found.items():
        for one in sites:
            report = one.report
            table.add_row(
                dataset,
                one.site,
                "[green]whole[/]" if one.ok else "[red]damaged[/]" if report else "[yellow]unknown[/]",
                (one.snapshot_id or "-")[:12],
                str(report.checked_objects) if report else "-",
                decimal(report.checked_bytes) if report else "-",
                str(len(report.missing)) if report else "-",
                str(len(report.corrupt)) if report else "-",
                escape(one.error or ""),
            )
            if report is not None:
                damaged += [f"{one.site}: missing {path}" for path in report.missing]
                damaged += [f"{one.site}: corrupt {path}" for path in report.corrupt]
    console.print(table)
    _print_paths(damaged)


def print_cleaned(cleaned: Sequence[Cleaned]) -> None:
    """What became of deletes."""
    for one in cleaned:
        if one.refused is not None:
            console.print(f"  deletes at {one.site}: {one.refused}", style="yellow", markup=False)
        elif one.marked_objects or one.removed_objects or one.waiting_objects:
            console.print(
                f"  deletes at {one.site}: {one.marked_objects} marked, {one.waiting_objects} wait for their delay, "
                f"{one.removed_objects} removed ({decimal(one.removed_bytes)})",
                markup=False,
            )


def print_rollback(report: RollbackReport) -> None:
    """The snapshot that was made, and how it got to the other sites."""
    record = report.record
    console.print(
        f"{record.dataset}: {record.snapshot_id} now has the content of {report.rolled_back_to} at {record.site}",
        markup=False,
    )
    _print_targets(report.targets)


def print_snapshots(found: Sequence[CommitRecord]) -> None:
    """Snapshots, newest first."""
    table = Table("snapshot", "taken", "epoch", "at", "objects", "size", "labels", box=None)
    for one in found:
        labels = ", ".join(f"{name}={value}" for name, value in sorted(one.labels.items()))
        table.add_row(
            one.snapshot_id,
            _when(one.taken_at),
            str(one.epoch),
            one.site,
            str(one.object_count),
            decimal(one.size_bytes),
            escape(labels),
        )
    console.print(table)


def print_diff(found: Diff) -> None:
    """What one snapshot has over another."""
    if found.is_empty:
        console.print(f"The same {found.unchanged.num_rows} objects.")
        return
    lines = [
        f"{sign} {path}"
        for sign, part in (("+", found.added), ("~", found.changed), ("-", found.removed))
        for path in part["path"].slice(0, _PATHS + 1).to_pylist()
    ]
    _print_paths(lines)
    console.print(
        f"{found.added.num_rows} added, {found.changed.num_rows} changed, {found.removed.num_rows} removed, "
        f"{found.unchanged.num_rows} the same; {decimal(found.copy_bytes)} to copy"
    )


def print_conflicts(found: ConflictReport) -> None:
    """What both sites changed, the conflicts first, and what the winner rule would do."""
    console.print(
        f"{found.dataset} at {found.active_site} and {found.peer} since snapshot {found.common_snapshot_id} "
        f"({_when(found.common_taken_at)}): {len(found.differences)} objects differ, {found.conflicts} conflicts, "
        f"winner {found.winner or 'none'}",
        markup=False,
    )
    ordered = sorted(found.differences, key=lambda one: not one.conflict)
    for one in ordered[:_PATHS]:
        style = "yellow" if one.conflict else None
        console.print(f"  {one.path!a}: {one.what}; {one.outcome}", style=style, markup=False)
    if len(ordered) > _PATHS:
        console.print("  … and more; --json names all")
    if found.differences:
        console.print(
            "Nothing was merged by this. `holdfast sync run` merges a dataset with `direction: active-active` and a "
            "`winner` (docs/reference/sync.md#directions)."
        )


def _print_paths(lines: Sequence[str]) -> None:
    for line in lines[:_PATHS]:
        console.print(line, markup=False)
    if len(lines) > _PATHS:
        console.print("… and more; --json names all")


def _time(one: TargetPlan) -> str:
    if one.expected_seconds is not None:
        return f"{one.expected_seconds:.0f} s"
    return "unknown" if not one.at_least_seconds else f"at least {one.at_least_seconds:.0f} s"


def _mark(one: TargetReport) -> str:
    if one.error is not None:
        return "[red]failed[/]"
    return "[yellow]refused[/]" if one.refused is not None else "[green]verified[/]"


def _lag(one: SiteStatus) -> str:
    if one.lag_seconds is None:
        return "unknown"
    if not one.missing_snapshots:
        return "none"
    return (
        f"{one.lag_seconds:.0f} s, {one.missing_snapshots} snapshots, {one.lag_objects} objects, "
        f"{decimal(one.lag_bytes or 0)}"
    )


def _guarantee(one: SiteStatus) -> str:
    if one.point_in_time is None:
        return "-"
    holds = {True: "[green]yes[/]", False: "[yellow]no[/]", None: "unknown"}[one.point_in_time.holds]
    said = ", planned from a feed" if one.point_in_time.planned_from == "feed" else ""
    return f"{holds}, {one.point_in_time.how}{said}"


def _remark(one: SiteStatus) -> str:
    if one.error is not None:
        return one.error
    return f"{one.unfinished_uploads} uploads unfinished" if one.unfinished_uploads else ""


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _when(moment: datetime | None) -> str:
    return "-" if moment is None else moment.isoformat(sep=" ", timespec="seconds")
