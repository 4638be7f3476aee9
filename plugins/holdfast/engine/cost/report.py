"""One look at the cost of a period: everything the other modules compute, from one reading of the bills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from holdfast.engine.config.cost import Cost
from holdfast.engine.cost import standby
from holdfast.engine.cost.bill import Bill, read_bills
from holdfast.engine.cost.errors import NoBill
from holdfast.engine.cost.mapping import Mapped, map_lines
from holdfast.engine.cost.periods import Period, periods_between
from holdfast.engine.cost.prices import Prices, load_prices
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.runtime import Runtime
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
        stores: by export its folder, by default opened with the connection of its site.
    """

    runtime: Runtime
    period: Period
    stores: Mapping[str, ObjectStore] | None = None

    @cached_property
    def cost(self) -> Cost:
        return cost_settings(self.runtime)

    @cached_property
    def periods(self) -> tuple[Period, ...]:
        """The period, and those after it: they bring its corrections and a drill's late lines."""
        return periods_between(self.period.start, max(self.runtime.clock.now(), self.period.start))

    @cached_property
    def bill(self) -> Bill:
        return read_bills(self.runtime, self.cost, self.periods, stores=self.stores)

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
        return standby.standby_report(self.bill, self.lines, self.period)

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


def report_document(look: Look) -> dict[str, Any]:
    """Everything, JSON-able."""
    return {
        "format": FORMAT,
        "period": str(look.period),
        "made_at": look.runtime.clock.now().isoformat(),
        "standby": standby.as_document(look.standby),
        "notes": [*look.bill.notes, *look.mapped.notes],
    }
