"""What ``holdfast cost`` prints for people."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from holdfast.cli.output import console
from holdfast.engine.cost.money import shown
from holdfast.engine.cost.standby import StandbyReport


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
