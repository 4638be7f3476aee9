"""What ``holdfast cost`` prints for people."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from rich.markup import escape
from rich.table import Table

from holdfast.cli.output import console
from holdfast.engine.cost.advice import Advice
from holdfast.engine.cost.drills import DrillCost
from holdfast.engine.cost.egress import EgressReport
from holdfast.engine.cost.locked import LockedStorage
from holdfast.engine.cost.money import shown
from holdfast.engine.cost.objectives import RpoFrontier, RtoFrontier
from holdfast.engine.cost.prices import GIB, Priced
from holdfast.engine.cost.report import Look
from holdfast.engine.cost.standby import StandbyReport

_NO_PRICE = "no price"


def print_report(look: Look) -> None:
    """Everything, one part below the other."""
    print_standby(look.standby)
    print_egress(look.egress)
    for drill in look.drills:
        print_drill(drill)
    print_objectives(look.rpo, look.rto)
    print_advice(look.advice, look.locked)
    for note in look.notes:
        console.print(escape(note))


def print_standby(report: StandbyReport) -> None:
    """By group and site, with what is unmapped below."""
    table = Table("group", "tier", "site", "role", "cost", "billed", "lines", "known by", box=None)
    for one in report.lines:
        table.add_row(
            escape(one.group or "–"),
            "–" if one.tier is None else str(one.tier),
            escape(one.site or "–"),
            one.role,
            shown(one.cost.effective, one.cost.currency),
            shown(one.cost.billed, one.cost.currency),
            str(one.cost.lines),
            ", ".join(one.mapped_by),
        )
    console.print(f"Standby cost of {report.period}: {report.state}")
    console.print(table)
    for cost in report.totals:
        console.print(f"Together: {shown(cost.effective, cost.currency)}")
    for cost in report.unmapped:
        console.print(
            f"[yellow]Unmapped: {shown(cost.effective, cost.currency)} in {cost.lines} lines that no tag, rule or "
            "bucket names; some of it may stand by[/]"
        )
    for part in report.parts:
        if part.detail:
            console.print(f"{escape(part.export)}: {part.state}: {escape(part.detail)}")


def print_egress(report: EgressReport) -> None:
    """What left, and what was billed for it."""
    table = Table("site", "dataset", "kind", "GiB", "cost", "price", box=None)
    for one in report.lines:
        size = f"{one.least_bytes / GIB:.3f}"
        if one.most_bytes != one.least_bytes:
            size = f"{size} to {one.most_bytes / GIB:.3f}"
        price = "–" if one.most is None else one.most.price_id
        table.add_row(one.site, escape(one.subject), one.kind, size, _range(one.least, one.most), escape(price))
    console.print(f"Bytes that left in {report.period}: {report.movements} syncs")
    console.print(table)
    for billed in report.billed:
        told = ", ".join(shown(cost.effective, cost.currency) for cost in billed.cost)
        share = report.explained(billed.site)
        explained = "" if share is None else f"; our receipts explain {_percent(share)}"
        console.print(f"Billed at {billed.site}: {told}{explained}")
    for note in report.notes:
        console.print(f"[yellow]{escape(note)}[/]")


def _percent(share: tuple[Decimal, Decimal]) -> str:
    least, most = (f"{float(one):.0%}" for one in share)
    return least if least == most else f"{least} to {most}"


def _range(least: Priced | None, most: Priced | None) -> str:
    if least is None or most is None:
        return _NO_PRICE
    low, high = shown(least.amount, least.currency), shown(most.amount, most.currency)
    return low if low == high else f"{low} to {high}"


def print_drill(drill: DrillCost) -> None:
    """One drill."""
    console.print(f"Drill {escape(drill.facts.drill_id)}: {drill.state}")
    for cost in drill.billed:
        console.print(f"  billed: {shown(cost.effective, cost.currency)} in {cost.lines} lines")
    for one in drill.estimate:
        told = _NO_PRICE if one.priced is None else shown(one.priced.amount, one.priced.currency)
        console.print(f"  estimate: {escape(one.what)} at {one.site}: {told}")
    for waiting in drill.open_bills:
        console.print(f"  waits for {escape(waiting)}")


def print_objectives(rpo: Sequence[RpoFrontier], rto: Sequence[RtoFrontier]) -> None:
    """The steps of each, with what a minute costs."""
    for front in rpo:
        console.print(
            f"RPO of {front.dataset} at {front.target} (objective {front.objective_seconds:g} s, {front.syncs} syncs)"
        )
        table = Table("sync every", "RPO", "per month", "per minute of RPO", box=None)
        for step in front.steps:
            minute = "now" if step.is_current else _bounds(step.per_minute, front.currency)
            months = None if step.least is None or step.most is None else (step.least, step.most)
            table.add_row(
                f"{float(step.interval_seconds):g} s",
                f"{float(step.rpo_seconds):g} s",
                _bounds(months, front.currency),
                minute,
            )
        console.print(table)
    for ways in rto:
        console.print(f"RTO of {ways.group} (objective {ways.objective_seconds:g} s)")
        table = Table("way", "RTO", "per month", "per minute of RTO", "known by", box=None)
        for way in ways.steps:
            minute = "–" if way.per_minute is None else shown(way.per_minute, way.currency)
            table.add_row(
                escape(way.name) + (" (beaten)" if way.name in ways.dominated else ""),
                "not measured" if way.rto_seconds is None else f"{way.rto_seconds:g} s",
                shown(way.per_month, way.currency),
                minute,
                escape(way.basis),
            )
        console.print(table)


def _bounds(amounts: tuple[Decimal, Decimal] | None, currency: str | None) -> str:
    if amounts is None or currency is None:
        return _NO_PRICE
    low, high = (shown(one, currency) for one in amounts)
    return low if low == high else f"{low} to {high}"


def print_advice(found: Sequence[Advice], locked: Sequence[LockedStorage]) -> None:
    """Each with its lines."""
    if not found:
        console.print("No advice: no line of these bills gives any.")
    for one in found:
        verb = "saves" if one.saving >= 0 else "costs"
        console.print(f"[bold]{escape(one.what)}[/]: {verb} {shown(abs(one.saving), one.currency)} a month")
        console.print(f"  risk: {escape(one.risk)}")
        console.print(f"  price: {escape(one.price)}; {one.line_count} lines, among them:")
        for line in one.lines:
            amount = shown(line.effective, line.currency)
            console.print(f"    {escape(line.file)} row {line.row}, charge {line.charge_id}: {amount}")
    for folder in locked:
        if folder.error is not None:
            console.print(f"[red]{escape(folder.name)} at {folder.site}: {escape(folder.error)}[/]")
            continue
        told = _NO_PRICE if folder.committed is None else shown(folder.committed.amount, folder.committed.currency)
        until = "nothing is locked" if folder.last_end is None else f"until {folder.last_end:%Y-%m-%d}"
        console.print(
            f"Locked: {escape(folder.name)} at {folder.site}: {folder.locked_bytes / GIB:.3f} GiB {until}, "
            f"which will cost {told}"
        )
