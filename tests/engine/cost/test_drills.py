"""A drill's cost is an estimate until its bill is final; a final bill without it makes it unknown, never free."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cost_world import DRILL, NOVEMBER, OCTOBER, CostWorld, aws_lines, azure_lines, gcp_lines, line, machine
from holdfast.engine.cost.bill import read_bills
from holdfast.engine.cost.drills import (
    DrillCost,
    DrillCostState,
    DrillUnknown,
    as_document,
    drill_cost,
    drills_of,
    read_drill,
)
from holdfast.engine.cost.mapping import map_lines
from holdfast.engine.cost.periods import month_of, periods_between
from holdfast.engine.cost.prices import load_prices
from holdfast.engine.objectstore import memory_store
from world import AWS, AZURE, GCP

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
PRICES = str(Path(__file__).resolve().parents[3] / "include" / "prices" / "list-prices.yaml")


def evidence(*, began: Any = OCTOBER + timedelta(days=11), kind: str = "evidence") -> dict[str, Any]:
    """A golden journal, moved to another day, at one site of three."""
    journal = json.loads((GOLDEN / kind / "journal.json").read_text())
    journal |= {
        "drill_id": DRILL,
        "started_at": began.isoformat(),
        "ended_at": (began + timedelta(hours=1)).isoformat(),
    }
    if "vault" in journal:
        journal["cost"]["egress_bytes"] = 200 * 1024**3
    found: dict[str, Any] = {site: memory_store(site) for site in (AWS, GCP, AZURE)}
    found[GCP].put(f"evidence/{DRILL}/journal.json", json.dumps(journal).encode())
    return found


def cost_of(world: CostWorld, stores: dict[str, Any]) -> DrillCost:
    facts = read_drill(stores, DRILL, world.topology)
    bill = read_bills(
        world.runtime, world.cost, periods_between(facts.started_at, world.clock.now()), stores=world.stores
    )
    lines = map_lines(bill.lines, world.topology, world.cost).lines
    return drill_cost(facts, bill, lines, world.topology, world.cost, load_prices(world.topology))


@pytest.mark.parametrize("kind", ["evidence", "restore-drill"])
def test_a_drills_cost_goes_from_provisional_to_final(kind):
    world = CostWorld(price_list=PRICES)
    world.clock = world.runtime.clock = type(world.clock)(OCTOBER + timedelta(days=13))
    stores = evidence(kind=kind)
    found = cost_of(world, stores)
    if kind == "restore-drill":
        assert found.state is DrillCostState.PROVISIONAL
        egress = next(one for one in found.estimate if one.unit == "bytes")
        assert egress.priced.amount == Decimal("8.7")  # 200 GiB out of Azure, 100 of them free
    else:
        assert found.state is DrillCostState.UNKNOWN  # the list has no price of machines
        assert not found.is_known
    world.deliver_aws(aws_lines())
    assert cost_of(world, stores).state is DrillCostState.LANDING
    world.clock.advance(40 * 86400)
    world.deliver_all()
    found = cost_of(world, stores)
    assert found.state is DrillCostState.FINAL
    assert [(one.currency, one.effective) for one in found.billed] == [("USD", Decimal("3.0000000001"))]
    assert as_document(found)["billed"][0]["effective"] == "3.0000000001"


def test_a_line_that_comes_a_month_later_is_the_drills_as_well():
    world = CostWorld()
    world.deliver_all()
    late = line("0.5", month=NOVEMBER, tags={"dr_drill_id": DRILL}, ChargeClass="Correction", **machine("i-drill"))
    world.deliver_aws([late], month=NOVEMBER, files=1)
    found = cost_of(world, evidence())
    assert found.billed[0].effective == Decimal("3.5000000001")


def test_a_final_bill_without_the_drill_leaves_its_cost_unknown():
    world = CostWorld(price_list=PRICES)
    world.deliver_aws([one for one in aws_lines() if one["ResourceId"] != "i-drill"])
    world.deliver_azure(azure_lines())
    world.deliver_gcp(gcp_lines())
    found = cost_of(world, evidence(kind="restore-drill"))
    assert (found.state, found.is_known, found.billed) == (DrillCostState.UNTAGGED, False, ())


def test_a_cloud_without_an_export_keeps_a_drill_from_being_final():
    world = CostWorld(exports={"aws-bill": {"site": AWS, "bucket": "bills-aws", "prefix": "exports"}})
    world.deliver_aws(aws_lines())
    found = cost_of(world, evidence())
    assert found.state is DrillCostState.LANDING
    assert any(GCP in one and "names no bill" in one for one in found.open_bills)


def test_a_bill_that_cannot_be_read_is_not_final():
    world = CostWorld().deliver_all()
    world.stores["gcp-bill"].put("2026-10/focus-000000000000.parquet", b"PAR1")
    found = cost_of(world, evidence())
    assert found.state is DrillCostState.LANDING
    assert any("gcp-bill" in one and "damaged" in one for one in found.open_bills)


def test_no_journal_is_one_error_and_an_odd_one_is_named():
    stores = evidence()
    with pytest.raises(DrillUnknown, match="unknown"):
        read_drill(stores, "20261012T120000Z-other0", CostWorld().topology)
    stores[GCP].put(f"evidence/{DRILL}/journal.json", b'{"drill_id": 1}')
    with pytest.raises(DrillUnknown, match="no drill's journal"):
        read_drill(stores, DRILL, CostWorld().topology)


def test_the_drills_of_a_period_are_found_by_their_evidence():
    found, unreadable = drills_of(evidence(), month_of(OCTOBER))
    assert (found, unreadable) == ((DRILL,), ())
    assert drills_of(evidence(), month_of(NOVEMBER)) == ((), ())
