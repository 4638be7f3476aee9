"""Our own dataset keeps to FOCUS 1.2, its figures are the bills', and no cell of it is a formula."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cost_world import DRILL, OCTOBER, CostWorld, azure_lines, line
from holdfast.engine.cost.bill import read_bills
from holdfast.engine.cost.columns import FOCUS_1_2
from holdfast.engine.cost.conformance import MANDATORY, check_focus
from holdfast.engine.cost.drills import Component, DrillCost, DrillCostState, DrillFacts
from holdfast.engine.cost.focus import read_focus
from holdfast.engine.cost.mapping import DRILL as DRILL_COLUMN
from holdfast.engine.cost.mapping import map_lines
from holdfast.engine.cost.periods import month_of
from holdfast.engine.cost.prices import Priced
from holdfast.engine.cost.publish import Published, focus_dataset, write_dataset
from world import AZURE, GCP, GROUP


def facts(drill: str = DRILL) -> DrillFacts:
    began = OCTOBER + timedelta(days=11)
    ended = began + timedelta(hours=1)
    return DrillFacts(drill, "drill", GROUP, "completed", began, ended, GCP, (GCP,), {})


@pytest.fixture
def published() -> Published:
    world = CostWorld()
    world.deliver_all()
    formula = line(
        "1",
        currency="EUR",
        provider="Microsoft",
        account="=cmd|' /C calc'!A0",
        SubAccountId="/subscriptions/dr",
        SubAccountName="+1+1",
        ChargeDescription='=HYPERLINK("http://x")',
        RegionId="westeurope",
        RegionName=None,
    )
    world.deliver_azure([*azure_lines(), formula], run="run-2")
    world.clock.advance(1)
    world.deliver_azure([*azure_lines(), formula], run="run-3")
    period = month_of(OCTOBER)
    bill = read_bills(world.runtime, world.cost, [period], stores=world.stores)
    lines = map_lines(bill.lines, world.topology, world.cost).lines
    priced = Priced(Decimal("0.25"), "USD", "a-price", "a list")
    drills = [
        DrillCost(facts(), DrillCostState.FINAL, (), (), ()),
        DrillCost(
            facts("20261013T120000Z-later0"),
            DrillCostState.PROVISIONAL,
            (),
            (Component("bytes read for the restore", AZURE, Decimal(1000), "bytes", priced),),
            (),
        ),
    ]
    states = {name: state.value for name, state in bill.part_states(period).items()}
    return focus_dataset(lines, states, drills, world.topology)


def test_what_we_write_keeps_the_rules_of_focus_1_2(published: Published) -> None:
    assert published.violations == ()
    assert published.table.column_names[: len(FOCUS_1_2)] == list(FOCUS_1_2)
    assert all(name.startswith("x_") for name in published.table.column_names[len(FOCUS_1_2) :])
    assert published.repaired["RegionName"] >= 1
    table = published.table
    assert set(table["x_HoldfastCostKind"].to_pylist()) == {"standby", "drill"}
    assert set(table["x_HoldfastCostState"].to_pylist()) == {"final", "provisional"}
    of_drill = table.filter(pc.fill_null(pc.equal(table[DRILL_COLUMN], DRILL), False))
    assert of_drill["EffectiveCost"].to_pylist() == [Decimal("3.0000000001")]
    estimate = table.filter(pc.equal(table["x_HoldfastCostState"], "provisional"))
    assert estimate.select(["BilledCost", "EffectiveCost"]).to_pylist() == [
        {"BilledCost": Decimal(0), "EffectiveCost": Decimal("0.25")}
    ]


def test_the_files_hold_the_same_and_no_cell_is_a_formula(published: Published, tmp_path: Path) -> None:
    parquet, text = write_dataset(published, tmp_path)
    again = pq.read_table(parquet)
    rows = list(csv.DictReader(io.StringIO(text.read_text(encoding="utf-8"))))
    assert len(rows) == again.num_rows == published.table.num_rows
    assert [Decimal(row["EffectiveCost"]) for row in rows] == published.table["EffectiveCost"].to_pylist()
    texts = [
        cell
        for row in rows
        for name, cell in row.items()
        if pa.types.is_string(published.table.schema.field(name).type) and cell
    ]
    assert not [cell for cell in texts if cell[0] in "=+-@\t\r"]
    assert any(cell.startswith("'=HYPERLINK") for cell in texts)
    assert "=HYPERLINK" in str(again["ChargeDescription"].to_pylist())
    assert json.loads((tmp_path / "focus.json").read_text())["conforms_to_checked_rules"] is True
    for file in (parquet, text):  # what we write can be read as what the clouds write
        found = read_focus(file.read_bytes(), name=file.name, export="own")
        assert found["EffectiveCost"].to_pylist() == published.table["EffectiveCost"].to_pylist()


@pytest.mark.parametrize("name", MANDATORY)
def test_a_mandatory_column_that_is_missing_is_found(published: Published, name: str) -> None:
    assert [
        one.column for one in check_focus(published.table.drop_columns([name])) if one.rule == "must be present"
    ] == [name]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("BilledCost", None),
        ("ChargeCategory", "Fee"),
        ("ChargeClass", "Refund"),
        ("PricingCategory", "Spot"),
        ("PricingCategory", None),
        ("ServiceCategory", "Disks"),
        ("BillingCurrency", "Euro"),
        ("ChargePeriodEnd", OCTOBER - timedelta(days=400)),
        ("PricingUnit", None),
        ("ListUnitPrice", Decimal(-1)),
        ("CommitmentDiscountStatus", "Idle"),
        ("CommitmentDiscountType", None),
        ("SubAccountType", None),
        ("ResourceType", None),
        ("RegionName", None),
    ],
)
def test_a_value_the_specification_forbids_is_found(published: Published, column: str, value: object) -> None:
    at = published.table.column_names.index(column)
    field = published.table.schema.field(column)
    values = published.table[column].to_pylist()
    row = next(
        number
        for number, one in enumerate(published.table.to_pylist())
        if one["CommitmentDiscountId"] is not None and one["ResourceId"] is not None and one["ChargeClass"] is None
    )
    values[row] = value
    broken = published.table.set_column(at, field, pa.array(values, field.type))
    assert (column, 1, row) in {(one.column, one.rows, one.row) for one in check_focus(broken)}


def test_a_column_of_our_own_has_our_prefix(published: Published) -> None:
    renamed = published.table.rename_columns({"x_HoldfastSite": "Site"})
    assert ("Site", None) in {(one.column, one.row) for one in check_focus(renamed)}
    assert not replace(published, violations=check_focus(renamed)).conforms
