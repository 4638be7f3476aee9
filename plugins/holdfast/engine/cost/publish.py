"""Our own output as a FOCUS 1.2 dataset: the lines of what stands by and of drills, and estimates marked as such.

The clouds' lines keep every figure. What their exports leave out or fill against the specification is put right and
counted; the rules that still do not hold are named beside the files, and then no conformance is claimed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from holdfast.engine.config import Topology
from holdfast.engine.cost import columns
from holdfast.engine.cost.conformance import Violation, check_focus
from holdfast.engine.cost.drills import DrillCost, DrillCostState
from holdfast.engine.cost.mapping import DRILL, MAPPED
from holdfast.engine.cost.money import only_where
from holdfast.engine.cost.standby import standby_lines

VERSION = "1.2"
KIND, STATE = "x_HoldfastCostKind", "x_HoldfastCostState"
_OWN = (KIND, STATE, *MAPPED)
_SUB_ACCOUNTS = {"AWS": "Account", "Google Cloud": "Project", "Microsoft": "Subscription"}
_SERVICES = {"bytes": ("Networking", "Data transfer"), "seconds": ("Compute", "Machines")}
#: What a spreadsheet would take for a formula.
_FORMULA = r"^[=+\-@\t\r]"


@dataclass(frozen=True)
class Published:
    """A dataset, what was put right in it, and what of the specification still does not hold."""

    table: pa.Table
    repaired: Mapping[str, int]
    violations: tuple[Violation, ...]

    @property
    def conforms(self) -> bool:
        """By the rules `conformance` has, which are not all."""
        return not self.violations


def focus_dataset(
    lines: pa.Table, states: Mapping[str, str], drills: Sequence[DrillCost], topology: Topology
) -> Published:
    """Standby and drill lines as FOCUS.

    Args:
        lines: of one billing period, mapped.
        states: by export, of this period.
        drills: whose lines, or estimates where no line has come, are in it.
    """
    known = {one.facts.drill_id: one for one in drills}
    of_drills = only_where(lines, DRILL, *known)
    told = {name: one.state.value for name, one in known.items()}
    standby = standby_lines(lines)
    parts = [
        _with(standby, "standby", _states_of(standby, states)),
        _with(of_drills, "drill", pa.array([told[name] for name in of_drills[DRILL].to_pylist()], pa.string())),
        _estimates([one for one in drills if one.state is DrillCostState.PROVISIONAL], topology),
    ]
    repaired: dict[str, int] = {}
    table = _put_right(pa.concat_tables(parts), repaired)
    return Published(table, repaired, check_focus(table))


def _states_of(lines: pa.Table, states: Mapping[str, str]) -> pa.Array:
    at = pc.index_in(lines["x_Export"], pa.array(list(states), pa.string()))
    return pc.fill_null(pc.take(pa.array(list(states.values()), pa.string()), at), "open")


def _schema() -> pa.Schema:
    own = [pa.field(name, pa.string()) for name in _OWN]
    return pa.schema([*columns.SCHEMA, *own])


def _with(lines: pa.Table, kind: str, states: pa.Array) -> pa.Table:
    lines = lines.append_column(pa.field(KIND, pa.string()), pa.repeat(pa.scalar(kind), lines.num_rows))
    return lines.append_column(pa.field(STATE, pa.string()), states).select(_schema().names).cast(_schema())


def _estimates(drills: Sequence[DrillCost], topology: Topology) -> pa.Table:
    rows = []
    for drill in drills:
        facts = drill.facts
        period = facts.periods[0]
        for at, one in enumerate(drill.estimate):
            if one.priced is None or one.quantity is None:
                continue
            site = topology.site(one.site)
            provider = columns.PROVIDERS[site.cloud]
            category, service = _SERVICES[one.unit]
            cost = one.priced.amount.quantize(Decimal("1e-18"))
            rows.append(
                {
                    **dict.fromkeys(_schema().names),
                    "BilledCost": Decimal(0),
                    **dict.fromkeys(("ContractedCost", "EffectiveCost", "ListCost"), cost),
                    "BillingAccountId": "not-billed-yet",
                    "BillingCurrency": one.priced.currency,
                    "BillingPeriodStart": period.start,
                    "BillingPeriodEnd": period.end,
                    "ChargePeriodStart": facts.started_at,
                    "ChargePeriodEnd": facts.ended_at,
                    "ChargeCategory": "Usage",
                    "ChargeDescription": f"Estimate: {one.what}, by price {one.priced.price_id}",
                    "ChargeFrequency": "Usage-Based",
                    "ConsumedQuantity": one.quantity,
                    "ConsumedUnit": one.unit,
                    **dict.fromkeys(("InvoiceIssuerName", "ProviderName", "PublisherName"), provider),
                    "PricingCategory": "Standard",
                    "PricingQuantity": one.quantity,
                    "PricingUnit": one.unit,
                    **dict.fromkeys(("RegionId", "RegionName"), site.region),
                    "ServiceCategory": category,
                    "ServiceName": service,
                    "SkuId": one.priced.price_id,
                    "SkuPriceId": one.priced.price_id,
                    "x_FocusVersion": VERSION,
                    "x_Export": "estimate",
                    "x_SourceFile": one.priced.source,
                    "x_SourceRow": at,
                    "x_HoldfastSite": one.site,
                    "x_HoldfastGroup": facts.group,
                    DRILL: facts.drill_id,
                    KIND: "drill",
                    STATE: drill.state.value,
                }
            )
    return pa.Table.from_pylist(rows, schema=_schema())


def _put_right(table: pa.Table, repaired: dict[str, int]) -> pa.Table:
    """What the clouds' exports are known to leave out, or to fill where the specification wants nothing."""

    def fill(name: str, value: Any, where: Any = None) -> None:
        nonlocal table
        values = table[name]
        empty = pc.is_null(values) if where is None else pc.and_(pc.is_null(values), where)
        replace(name, pc.if_else(empty, value, values))

    def clear(name: str, where: Any) -> None:
        kind = table.schema.field(name).type
        replace(name, pc.if_else(pc.fill_null(where, False), pa.scalar(None, kind), table[name]))

    def replace(name: str, values: Any) -> None:
        nonlocal table
        before = table[name]
        changed = pc.sum(pc.cast(pc.xor(pc.is_null(before), pc.is_null(values)), pa.int64())).as_py() or 0
        if changed:
            repaired[name] = repaired.get(name, 0) + changed
            table = table.set_column(table.column_names.index(name), table.schema.field(name), values)

    category = table["ChargeCategory"]
    is_tax = pc.equal(category, "Tax")
    for name in ("InvoiceIssuerName", "PublisherName"):
        fill(name, table["ProviderName"])
    fill("ServiceCategory", "Other")
    fill("ListCost", pc.coalesce(table["ContractedCost"], table["EffectiveCost"]))
    fill("ContractedCost", table["ListCost"])
    fill("RegionName", table["RegionId"])
    fill("ResourceId", table["ResourceName"])
    fill("ResourceType", "Resource", pc.is_valid(table["ResourceId"]))
    types = pc.index_in(table["ProviderName"], pa.array(list(_SUB_ACCOUNTS)))
    fill(
        "SubAccountType",
        pc.coalesce(pc.take(pa.array(list(_SUB_ACCOUNTS.values())), types), pa.scalar("Account")),
        pc.is_valid(table["SubAccountId"]),
    )
    clear("SubAccountType", pc.is_null(table["SubAccountId"]))
    for name in ("PricingCategory", "PricingQuantity", "ListUnitPrice", "ContractedUnitPrice", "SkuPriceId"):
        clear(name, is_tax)
    not_usage = pc.not_equal(category, "Usage")
    clear(
        "ConsumedQuantity",
        pc.or_(not_usage, pc.fill_null(pc.equal(table["CommitmentDiscountStatus"], "Unused"), False)),
    )
    for unit, quantity in (("ConsumedUnit", "ConsumedQuantity"), ("PricingUnit", "PricingQuantity")):
        clear(unit, pc.is_null(table[quantity]))
        fill(unit, "Units", pc.is_valid(table[quantity]))
    return table


def write_dataset(published: Published, folder: Path) -> tuple[Path, Path]:
    """The dataset as Parquet and as CSV, with what was put right and what does not hold beside them.

    The Parquet file holds the texts as they are; in the CSV file a text that a spreadsheet would run as a formula has
    an apostrophe before it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parquet, text = folder / "focus.parquet", folder / "focus.csv"
    table = _with_json_tags(published.table).replace_schema_metadata({"focus_version": VERSION})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    replace_file(parquet, sink.getvalue())
    replace_file(text, csv_bytes(table))
    about = {
        "focus_version": VERSION,
        "rows": table.num_rows,
        "conforms_to_checked_rules": published.conforms,
        "repaired": dict(published.repaired),
        "violations": [
            {"column": one.column, "rule": one.rule, "rows": one.rows, "first_row": one.row}
            for one in published.violations
        ],
    }
    replace_file(folder / "focus.json", json.dumps(about, indent=2).encode() + b"\n")
    return parquet, text


def _with_json_tags(table: pa.Table) -> pa.Table:
    """FOCUS's key-value format: one JSON object."""
    texts = [None if one is None else json.dumps(dict(one), ensure_ascii=False) for one in table["Tags"].to_pylist()]
    at = table.column_names.index("Tags")
    return table.set_column(at, pa.field("Tags", pa.string()), pa.array(texts, pa.string()))


def csv_bytes(table: pa.Table) -> bytes:
    """As CSV: decimals with every digit, times with a Z, and no cell that is a formula."""
    safe = {}
    for name in table.column_names:
        values = table[name]
        kind = values.type
        if pa.types.is_decimal(kind):
            # One digit stays behind the point: a reader that guesses types takes whole numbers for decimals then.
            safe[name] = pc.replace_substring_regex(pc.cast(values, pa.string()), r"(\.\d+?)0+$", r"\1")
        elif pa.types.is_timestamp(kind):
            safe[name] = pc.strftime(pc.cast(values, pa.timestamp("s", tz="UTC")), format="%Y-%m-%dT%H:%M:%SZ")
        elif pa.types.is_string(kind):
            risky = pc.match_substring_regex(values, _FORMULA)
            safe[name] = pc.if_else(risky, pc.binary_join_element_wise("'", values, ""), values)
        else:
            safe[name] = pc.cast(values, pa.string())
    sink = io.BytesIO()
    pcsv.write_csv(pa.table(safe), sink, pcsv.WriteOptions(quoting_style="needed"))
    return sink.getvalue()


def replace_file(file: Path, data: bytes) -> None:
    """Write a file that is there as a whole or as it was."""
    draft = file.with_name(f".{file.name}.draft")
    draft.write_bytes(data)
    draft.replace(file)
