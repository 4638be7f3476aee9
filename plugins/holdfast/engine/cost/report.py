"""One look at the cost of a period: everything the other modules compute, from one reading of the bills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import pyarrow as pa

from holdfast.engine.config.cost import Cost
from holdfast.engine.cost import advice, egress, idle, locked, objectives, standby
from holdfast.engine.cost import drills as drill_costs
from holdfast.engine.cost.asking import Asking, asked_bill
from holdfast.engine.cost.bill import Bill, BillState, lines_of, read_bills
from holdfast.engine.cost.errors import NoBill
from holdfast.engine.cost.mapping import GROUP, Mapped, map_lines
from holdfast.engine.cost.money import grouped_sums, plain
from holdfast.engine.cost.movements import Movements, intervals, read_movements
from holdfast.engine.cost.periods import Period, periods_between
from holdfast.engine.cost.prices import Prices, load_prices
from holdfast.engine.cost.publish import Published, focus_dataset
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot.records import record_keys
from holdfast.errors import ConfigError

FORMAT = "holdfast.cost-report/1"


def cost_settings(runtime: Runtime) -> Cost:
    """The topology's part. Raises ConfigError when it has none."""
    if runtime.topology.cost is None:
        raise ConfigError(
            "the topology says nothing of cost",
            where=f"{runtime.topology.path}: cost",
            expected="a section with the clouds' FOCUS exports",
            found="none",
            fix="docs/how-to/costs.md shows one",
        )
    return runtime.topology.cost


@dataclass(frozen=True)
class Look:
    """The bills from a period until now, read once; what of it is asked is computed then.

    Args:
        exports: by export its folder, by default opened with the connection of its site.
        asking: what asks billing interfaces where an export has nothing; none: nobody is asked.
        sites: by site its own store, by default of the runtime: receipts, evidence and what is locked lie there.
    """

    runtime: Runtime
    period: Period
    exports: Mapping[str, ObjectStore] | None = None
    sites: Mapping[str, ObjectStore] | None = None
    asking: Asking | None = None

    @cached_property
    def cost(self) -> Cost:
        return cost_settings(self.runtime)

    @cached_property
    def periods(self) -> tuple[Period, ...]:
        """The period and the two after it, which bring a drill's late lines."""
        last = self.period.next.next.start
        return periods_between(self.period.start, max(min(self.runtime.clock.now(), last), self.period.start))

    @cached_property
    def bill(self) -> Bill:
        bill = read_bills(self.runtime, self.cost, self.periods, stores=self.exports)
        if self.asking is None:
            return bill
        # The period alone: later ones are read for corrections, and a question has its price.
        return asked_bill(bill, self.asking, self.cost, self.runtime.topology, [self.period])

    @cached_property
    def mapped(self) -> Mapped:
        return map_lines(self.bill.lines, self.runtime.topology, self.cost)

    @property
    def lines(self) -> pa.Table:
        return self.mapped.lines

    @cached_property
    def prices(self) -> Prices:
        return load_prices(self.runtime.topology)

    @cached_property
    def standby(self) -> standby.StandbyReport:
        return standby.standby_report(self.bill, self.lines, self.period, self.runtime.topology)

    @cached_property
    def of_period(self) -> pa.Table:
        """The mapped lines of this billing period alone."""
        return lines_of(self.lines, self.period)

    @cached_property
    def site_stores(self) -> Mapping[str, ObjectStore]:
        return self.sites if self.sites is not None else self.runtime.stores(self.runtime.topology.sites)

    @cached_property
    def movements(self) -> Movements:
        return read_movements(self.site_stores, self.period)

    @cached_property
    def egress(self) -> egress.EgressReport:
        topology = self.runtime.topology
        return egress.egress_report(
            self.movements, self.of_period, topology, self.prices, self.period, self.cost.runs_at
        )

    @property
    def drills(self) -> tuple[drill_costs.DrillCost, ...]:
        """Of all drills that began in the period and whose journal can be read."""
        return self._drills[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, or could not be read, beside the bills' own states."""
        return (*self.bill.notes, *self.mapped.notes, *self._drills[1])

    @cached_property
    def _drills(self) -> tuple[tuple[drill_costs.DrillCost, ...], tuple[str, ...]]:
        ids, unreadable = drill_costs.drills_of(self.site_stores, self.period)
        found, notes = [], list(unreadable)
        for one in ids:
            try:
                found.append(self.drill(drill_costs.read_drill(self.site_stores, one, self.runtime.topology)))
            except drill_costs.DrillUnknown as error:
                notes.append(str(error))
        return tuple(found), tuple(notes)

    def drill(self, facts: drill_costs.DrillFacts) -> drill_costs.DrillCost:
        """What one drill cost, which need not have begun in the period."""
        return drill_costs.drill_cost(
            facts, self.bill, self.lines, self.runtime.topology, self.cost, self.prices, self.movements.found
        )

    @cached_property
    def rpo(self) -> tuple[objectives.RpoFrontier, ...]:
        lags = sync_lags(self.site_stores, self.movements)
        return objectives.rpo_frontiers(self.movements.found, self.runtime.topology, self.prices, lags)

    @cached_property
    def rto(self) -> tuple[objectives.RtoFrontier, ...]:
        costs = [(key[0], cost) for key, cost in grouped_sums(standby.standby_lines(self.of_period), (GROUP,))]
        measured = drill_costs.newest_rto(self.site_stores, self.period)
        return objectives.rto_frontiers(self.runtime.topology, self.cost, costs, measured)

    @cached_property
    def advice(self) -> tuple[advice.Advice, ...]:
        return advice.advise(self.of_period, self.runtime.topology, self.prices, self.period)

    @cached_property
    def locked(self) -> tuple[locked.LockedStorage, ...]:
        now: datetime = self.runtime.clock.now()
        return locked.locked_storage(self.site_stores, self.runtime.topology, self.cost, self.prices, now)

    def dataset(self) -> Published:
        """Standby and drills of the period as FOCUS."""
        states = {name: state.value for name, state in self.bill.part_states(self.period).items()}
        return focus_dataset(self.of_period, states, self.drills, self.runtime.topology)

    def require_bill(self) -> None:
        """Raises NoBill when no export has a bill of the period: then nothing is known, and nothing is zero."""
        if any(part.state.is_known for part in self.standby.parts):
            return
        details = "; ".join(f"{part.export}: {part.state}: {part.detail}" for part in self.standby.parts)
        raise NoBill(
            f"there is no bill of {self.period}: what it cost is unknown",
            where=f"{self.runtime.topology.path}: cost.exports",
            expected="a delivered FOCUS export",
            found=details or "no export is named",
            fix="docs/how-to/costs.md says how each cloud delivers one; a day or two after the first line it is there",
        )


def sync_lags(stores: Mapping[str, ObjectStore], movements: Movements) -> dict[tuple[str, str], float]:
    """By dataset and target the longest time from a snapshot's commit to its receipt, in seconds, where known."""
    found: dict[tuple[str, str], float] = {}
    for subject, target in sorted({(one.subject, one.target) for one in movements.found}):
        if target not in stores:
            continue
        try:
            committed = {key.snapshot_id: key.committed_at for key in record_keys(stores[target], subject)}
        except (ObjectStoreError, ConfigError):
            continue
        lags = [
            (one.at - committed[one.item]).total_seconds()
            for one in intervals(movements.found, subject, target)
            if one.item in committed
        ]
        if lags:
            found[subject, target] = max(0.0, *lags)
    return found


def report_document(look: Look) -> dict[str, Any]:
    """Everything, JSON-able."""
    return {
        "format": FORMAT,
        "period": str(look.period),
        "made_at": look.runtime.clock.now().isoformat(),
        "is_known": look.standby.is_known,
        "is_final": look.standby.state is BillState.FINAL,
        "standby": standby.as_document(look.standby),
        "egress": egress.as_document(look.egress),
        "drills": [drill_costs.as_document(one) for one in look.drills],
        "objectives": objectives.as_document(look.rpo, look.rto, look.period),
        **idle.as_document(look.of_period, look.runtime.topology),
        "locked": locked.as_document(look.locked),
        "advice": advice.as_document(look.advice),
        "notes": list(look.notes),
    }


def summary(look: Look) -> dict[str, Any]:
    """A few figures, small enough for an XCom."""
    return {
        "period": str(look.period),
        "state": look.standby.state.value,
        "is_known": look.standby.is_known,
        "standby": {one.currency: plain(one.effective) for one in look.standby.totals},
        "unmapped": {one.currency: plain(one.effective) for one in look.standby.unmapped},
        "exports": {part.export: part.state.value for part in look.standby.parts},
        "drills": {one.facts.drill_id: one.state.value for one in look.drills[:50]},
        "advice": len(look.advice),
    }
