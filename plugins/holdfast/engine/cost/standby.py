"""What standing by costs in a billing period: by group, tier, site and role, from the clouds' own bills."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config import Cloud, Topology
from holdfast.engine.cost.bill import Bill, BillPart, BillState, lines_of
from holdfast.engine.cost.mapping import BY, DRILL, GROUP, ROLE, SITE, STANDBY_ROLES, TIER
from holdfast.engine.cost.money import Sum, grouped_sums, only_where, sums
from holdfast.engine.cost.periods import Period


@dataclass(frozen=True)
class StandbyLine:
    """One group at one site in one role, one currency, and by charge category what it is made of."""

    group: str | None
    tier: int | None
    site: str | None
    role: str
    cost: Sum
    by_category: tuple[tuple[str, Sum], ...]
    mapped_by: tuple[str, ...]


@dataclass(frozen=True)
class StandbyReport:
    """One period.

    Args:
        state: the worst of the exports': only ``final`` will not change.
        lines: what stands by.
        uncovered: sites that stand by and of whose cloud no bill is read: what they cost is in no sum.
        unmapped: what no tag, rule or bucket says whose it is; some of it may stand by.
        whole: the whole bills.
    """

    period: Period
    state: BillState
    parts: tuple[BillPart, ...]
    lines: tuple[StandbyLine, ...]
    totals: tuple[Sum, ...]
    by_tier: tuple[tuple[int | None, Sum], ...]
    unmapped: tuple[Sum, ...]
    whole: tuple[Sum, ...]
    uncovered: tuple[str, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether there is a bill of every cloud that stands by. If not, the sums are of what there is, and too low."""
        return bool(self.parts) and not self.unknown

    @property
    def unknown(self) -> tuple[str, ...]:
        """Why something is not known, one sentence each."""
        return (
            *(f"{one.export}: {one.state}: {one.detail}" for one in self.parts if not one.state.is_known),
            *(f"{site}: it stands by, and `cost.exports` names no bill of its cloud" for site in self.uncovered),
        )


#: Of several exports, the period's state is the first of these that occurs.
_WORST = (BillState.UNREADABLE, BillState.DAMAGED, BillState.MISSING, BillState.OPEN, BillState.FINAL)


def standby_report(bill: Bill, lines: pa.Table, period: Period, topology: Topology) -> StandbyReport:
    """The standby cost of one billing period.

    Args:
        bill: what was read.
        lines: its lines, mapped.
    """
    parts = tuple(part for part in bill.parts if part.period == period)
    of_period = lines_of(lines, period)
    standby = standby_lines(of_period)
    found = grouped_sums(standby, (GROUP, TIER, SITE, ROLE))
    categories = grouped_sums(standby, (GROUP, TIER, SITE, ROLE, "ChargeCategory"))
    ways = grouped_sums(standby, (GROUP, TIER, SITE, ROLE, BY))
    states = {part.state for part in parts}
    return StandbyReport(
        period,
        next((state for state in _WORST if state in states), BillState.MISSING),
        parts,
        tuple(
            StandbyLine(
                key[0],
                None if key[1] is None else int(key[1]),
                key[2],
                key[3],
                cost,
                tuple((k[4], c) for k, c in categories if k[:4] == key and c.currency == cost.currency),
                tuple(sorted({str(k[4]) for k, c in ways if k[:4] == key and c.currency == cost.currency})),
            )
            for key, cost in found
        ),
        sums(standby),
        tuple((None if key[0] is None else int(key[0]), cost) for key, cost in grouped_sums(standby, (TIER,))),
        sums(of_period.filter(pc.is_null(of_period[ROLE]))),
        sums(of_period),
        _uncovered(topology, parts),
    )


def _uncovered(topology: Topology, parts: Iterable[BillPart]) -> tuple[str, ...]:
    """A folder of this machine has no bill; every cloud has."""
    covered = {topology.sites[part.site].cloud for part in parts} | {Cloud.LOCAL}
    standing = {site for group in topology.groups.values() for site in (*group.sites.standby, *group.sites.witness)}
    return tuple(sorted(site for site in standing if topology.sites[site].cloud not in covered))


def standby_lines(lines: pa.Table) -> pa.Table:
    """The lines of what stands by. A drill's own lines are the drill's, not the standby's."""
    return only_where(lines.filter(pc.is_null(lines[DRILL])), ROLE, *STANDBY_ROLES)


def as_document(report: StandbyReport) -> dict[str, Any]:
    """JSON-able; amounts are text, so that no reader makes them floats."""
    return {
        "period": str(report.period),
        "state": report.state.value,
        "is_known": report.is_known,
        "unknown": list(report.unknown),
        "exports": [part_document(part) for part in report.parts],
        "standby": [
            {
                "group": one.group,
                "tier": one.tier,
                "site": one.site,
                "role": one.role,
                **one.cost.as_document(),
                "by_category": {name: cost.as_document() for name, cost in one.by_category},
                "mapped_by": list(one.mapped_by),
            }
            for one in report.lines
        ],
        "totals": [one.as_document() for one in report.totals],
        "by_tier": [{"tier": tier, **cost.as_document()} for tier, cost in report.by_tier],
        "unmapped": [one.as_document() for one in report.unmapped],
        "whole_bills": [one.as_document() for one in report.whole],
    }


def part_document(part: BillPart) -> dict[str, Any]:
    """JSON-able."""
    return {
        "export": part.export,
        "site": part.site,
        "period": str(part.period),
        "state": part.state.value,
        "delivered_at": None if part.delivered_at is None else part.delivered_at.isoformat(),
        "files": part.files,
        "rows": part.rows,
        "focus_versions": list(part.versions),
        "detail": part.detail,
    }
