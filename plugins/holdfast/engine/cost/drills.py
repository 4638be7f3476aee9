"""What a drill cost: an estimate from its journal while its bill is away, the bill's own lines once they are final.

Lines are a drill's by its tag (`cost.tags.drill`). A period that is final without one line of the drill does not make
the drill free: its resources were not tagged, and what it cost stays unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pyarrow as pa

from holdfast.engine.config import Cloud, Topology
from holdfast.engine.config.cost import Cost
from holdfast.engine.cost.bill import Bill
from holdfast.engine.cost.egress import priced_document
from holdfast.engine.cost.mapping import DRILL
from holdfast.engine.cost.money import Sum, only_where, sums
from holdfast.engine.cost.movements import Movement
from holdfast.engine.cost.periods import Period, periods_between
from holdfast.engine.cost.prices import Priced, Prices
from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.errors import ConfigError, HoldfastError

#: What a drill started runs on for a while, and is billed by the hour.
_AFTER = timedelta(days=1)
_DRILL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
_MOST_JOURNAL_BYTES = 64 * 1024 * 1024


class DrillUnknown(HoldfastError):
    """No site has a journal of this drill."""

    exit_code = 7


class DrillCostState(StrEnum):
    """How far what is known of a drill's cost goes."""

    #: Every bill it may be on is final, and has lines of it: their sum is the cost.
    FINAL = "final"
    #: Lines have come, and more may come.
    LANDING = "landing"
    #: Only the estimate.
    PROVISIONAL = "provisional"
    #: The bills are final and have no line of it: it was not tagged. Unknown, not zero.
    UNTAGGED = "untagged"
    #: Neither a line nor a price.
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class DrillFacts:
    """What a journal says, of any kind of drill.

    Args:
        sites: that took part, in the topology's names.
        egress_bytes: by the site they left, where the journal says so.
    """

    drill_id: str
    kind: str
    group: str | None
    status: str
    started_at: datetime
    ended_at: datetime
    target: str | None
    sites: tuple[str, ...]
    egress_bytes: Mapping[str, int | None]

    @property
    def periods(self) -> tuple[Period, ...]:
        """The billing periods its lines may be in."""
        return periods_between(self.started_at, self.ended_at + _AFTER)

    @classmethod
    def of_journal(cls, journal: Mapping[str, Any], topology: Topology) -> DrillFacts:
        """Raises KeyError, TypeError or ValueError when it is no drill's journal."""
        plan = journal.get("plan") or {}
        target = plan.get("target") or (journal.get("target") or {}).get("site")
        source = plan.get("source")
        group = journal.get("group")
        vault = (journal.get("vault") or {}).get("site")
        # Where it says neither, every site of its group may have had a part in it.
        named: tuple[Any, ...] = (source, target, vault)
        if not any(named) and group in topology.groups:
            named = topology.groups[group].sites.all()
        sites = tuple(dict.fromkeys(one for one in named if one in topology.sites))
        cost = journal.get("cost") or {}
        left = {vault: cost.get("egress_bytes")} if vault in topology.sites and "egress_bytes" in cost else {}
        return cls(
            str(journal["drill_id"]),
            str(journal["format"]),
            group,
            str(journal["status"]),
            _time(journal["started_at"]),
            _time(journal["ended_at"]),
            target if target in topology.sites else None,
            sites,
            left,
        )


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def check_drill_id(text: str) -> str:
    """The id of a drill as it can stand in a key. Raises ConfigError."""
    if not _DRILL_ID.fullmatch(text) or ".." in text:
        raise ConfigError(
            "this is no drill's id",
            where="the drill",
            expected="letters, digits, `.`, `_` and `-`, as 20261012T120000Z-abc123",
            found=repr(text),
            fix="The drill's own output and its evidence name it",
        )
    return text


def read_drill(stores: Mapping[str, ObjectStore], drill_id: str, topology: Topology) -> DrillFacts:
    """A drill's facts, from the first site that has its evidence.

    Raises:
        DrillUnknown: no site has it, or none that has it can be read.
    """
    found: list[str] = []
    for site, store in sorted(stores.items()):
        key = f"evidence/{drill_id}/journal.json"
        try:
            data = store.get(key)
            if len(data) > _MOST_JOURNAL_BYTES:
                raise ValueError(f"{len(data)} bytes")
            return DrillFacts.of_journal(json.loads(data), topology)
        except ObjectNotFound:
            found.append(f"{site}: none")
        except ObjectStoreError as error:
            found.append(f"{site}: {error}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            found.append(f"{site}: {key} is no drill's journal: {error}")
    raise DrillUnknown(
        f"there is no journal of the drill {drill_id}: what it cost is unknown",
        where="evidence/ of every site",
        expected="journal.json",
        found="; ".join(found),
    )


def drills_of(stores: Mapping[str, ObjectStore], period: Period) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the drills that began in a period, by their evidence; and the sites that could not be asked."""
    ids: set[str] = set()
    unreadable = []
    for site, store in sorted(stores.items()):
        try:
            # An id begins with its time.
            for info in store.list(f"evidence/{period.start:%Y%m}"):
                parts = info.key.split("/")
                if len(parts) == 3 and parts[2] == "journal.json":
                    ids.add(parts[1])
        except ObjectStoreError as error:
            unreadable.append(f"{site}: {error}")
    return tuple(sorted(ids)), tuple(unreadable)


def newest_rto(stores: Mapping[str, ObjectStore], period: Period) -> dict[str, float]:
    """Per group the RTO its newest completed failover drill of a period measured, from the fault, in seconds."""
    ids, _ = drills_of(stores, period)
    found: dict[str, float] = {}
    for drill_id in ids:  # oldest first
        for store in stores.values():
            try:
                journal = json.loads(store.get(f"evidence/{drill_id}/journal.json"))
                seconds = journal["rto_seconds"]["from_fault"]
                if journal["status"] == "completed" and seconds is not None:
                    found[str(journal["group"])] = float(seconds)
                break
            except (ObjectStoreError, KeyError, TypeError, ValueError):
                continue  # another kind of drill has another RTO, and another site may have this one's evidence
    return found


@dataclass(frozen=True)
class Component:
    """One part of an estimate; ``priced`` is ``None`` where nobody says a price."""

    what: str
    site: str
    quantity: Decimal | None
    unit: str
    priced: Priced | None


@dataclass(frozen=True)
class DrillCost:
    """What a drill cost, as far as it is known.

    Args:
        billed: the sum of its lines so far, per currency.
        estimate: what of it can be priced; never complete, and never a bill.
        open_bills: exports and periods that are not final yet, and why.
    """

    facts: DrillFacts
    state: DrillCostState
    billed: tuple[Sum, ...]
    estimate: tuple[Component, ...]
    open_bills: tuple[str, ...]

    @property
    def is_known(self) -> bool:
        """False where nothing at all says what it cost."""
        return self.why_unknown is None

    @property
    def why_unknown(self) -> str | None:
        """Why nothing at all says what it cost, ``None``: something does."""
        return {
            DrillCostState.UNTAGGED: "its bills are final, and no line has its tag",
            DrillCostState.UNKNOWN: "no bill has a line of it, and the price list has no price for what it used",
        }.get(self.state)


def drill_cost(
    facts: DrillFacts,
    bill: Bill,
    lines: pa.Table,
    topology: Topology,
    cost: Cost,
    prices: Prices,
    movements: Sequence[Movement] = (),
) -> DrillCost:
    """The cost of one drill.

    Args:
        bill: of all periods from the drill's on; lines that come later than its own period are its as well.
        lines: its lines, mapped.
        movements: of the time; those within the drill, of its group's datasets, are priced in the estimate.
    """
    own = only_where(lines, DRILL, facts.drill_id)
    exports = _exports_of(facts, topology, cost)
    open_bills = tuple(
        f"{part.export} {part.period}: {part.state}{': ' + part.detail if part.detail else ''}"
        for part in bill.parts
        if part.period in facts.periods and part.export in exports and part.state != "final"
    )
    billed = {topology.sites[cost.exports[name].site].cloud for name in exports} | {Cloud.LOCAL}
    without = [site for site in facts.sites if topology.sites[site].cloud not in billed]
    open_bills += tuple(f"{site}: `cost.exports` names no bill of its cloud" for site in without)
    is_final = bool(exports) and not without and bill.is_final(facts.periods, exports)
    estimate = tuple(_estimate(facts, topology, prices, movements))
    if is_final:
        state = DrillCostState.FINAL if own.num_rows else DrillCostState.UNTAGGED
    elif own.num_rows:
        state = DrillCostState.LANDING
    else:
        priced = any(one.priced is not None for one in estimate)
        state = DrillCostState.PROVISIONAL if priced else DrillCostState.UNKNOWN
    return DrillCost(facts, state, sums(own), estimate, open_bills)


def _exports_of(facts: DrillFacts, topology: Topology, cost: Cost) -> list[str]:
    """The exports of the clouds that took part; all where the journal names none."""
    clouds = {topology.sites[site].cloud for site in facts.sites}
    return [name for name, one in cost.exports.items() if not clouds or topology.sites[one.site].cloud in clouds]


def _estimate(
    facts: DrillFacts, topology: Topology, prices: Prices, movements: Sequence[Movement]
) -> Iterable[Component]:
    if facts.target is not None:
        seconds = Decimal(str((facts.ended_at - facts.started_at).total_seconds()))
        priced = prices.of(topology.site(facts.target), "compute", seconds)
        yield Component("machines at the target, for the drill's time", facts.target, seconds, "seconds", priced)
    for site, left in facts.egress_bytes.items():
        amount = None if left is None else prices.egress(site, left)
        yield Component("bytes read for the restore", site, None if left is None else Decimal(left), "bytes", amount)
    datasets = set(topology.groups[facts.group].datasets) if facts.group in topology.groups else set()
    left_by_site: dict[str, int] = {}
    for one in movements:
        is_its = one.subject in datasets and facts.started_at <= one.at <= facts.ended_at
        if is_its and one.source in topology.sites:
            left_by_site[one.source] = left_by_site.get(one.source, 0) + one.most_bytes
    for site, left in sorted(left_by_site.items()):
        yield Component("bytes synced meanwhile", site, Decimal(left), "bytes", prices.egress(site, left))


def as_document(found: DrillCost) -> dict[str, Any]:
    """JSON-able."""
    return {
        "drill_id": found.facts.drill_id,
        "kind": found.facts.kind,
        "group": found.facts.group,
        "status": found.facts.status,
        "started_at": found.facts.started_at.isoformat(),
        "ended_at": found.facts.ended_at.isoformat(),
        "sites": list(found.facts.sites),
        "state": found.state.value,
        "is_known": found.is_known,
        "billed": [one.as_document() for one in found.billed],
        "estimate": [
            {
                "what": one.what,
                "site": one.site,
                "quantity": None if one.quantity is None else str(one.quantity),
                "unit": one.unit,
                "cost": priced_document(one.priced),
            }
            for one in found.estimate
        ],
        "open_bills": list(found.open_bills),
    }
