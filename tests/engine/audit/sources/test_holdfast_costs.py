"""A report of cost is one of Holdfast's own events: kept at the sites, read there, sealed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.audit.interface import Coverage, Interval, State
from holdfast.engine.audit.ocsf.schema import as_event
from holdfast.engine.audit.sources.holdfast import HoldfastEvents
from holdfast.engine.cost.record import KEPT, keep_report, record_of
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore
from ocsf_world import assert_valid

SITES = ("site-a", "site-b")


def report(**changes: Any) -> dict[str, Any]:
    return {
        "format": "holdfast.cost-report/1",
        "period": "2026-10",
        "made_at": "2026-11-02T06:00:00+00:00",
        "is_known": True,
        "standby": {"state": "final", "totals": [{"currency": "USD", "effective": "12.34"}], "unknown": []},
        "drills": [{"drill_id": "20261012T120000Z-abc123", "state": "final"}],
        **changes,
    }


def collected(stores: dict[str, ObjectStore]) -> tuple[list[bytes], list[dict[str, Any]], Coverage]:
    now = datetime.now(UTC)
    window = Interval(now - timedelta(hours=1), now + timedelta(minutes=1))
    source = HoldfastEvents("holdfast", stores, clock=FakeClock(now + timedelta(hours=1)))
    batches = list(source.read(window))
    raw = [record for batch in batches for record in batch.raw.to_pylist()]
    events = [as_event(row) for batch in batches for row in source.normalise(batch.raw).to_pylist()]
    return raw, events, source.completeness(window)


@pytest.fixture
def stores() -> dict[str, ObjectStore]:
    return {site: memory_store(site) for site in SITES}


def test_a_report_is_one_event_with_its_sum(stores: dict[str, ObjectStore]) -> None:
    assert keep_report(stores, report()) == dict.fromkeys(SITES, KEPT)
    assert keep_report(stores, report()) == dict.fromkeys(SITES, KEPT)  # the same once more is the same
    raw, (event,), coverage = collected(stores)
    assert raw == [record_of(report())[1]]
    assert coverage.state is State.COMPLETE
    assert_valid(event)
    assert (event["class_uid"], event["activity_id"], event["status_id"]) == (6002, 99, 1)
    assert event["message"] == "cost of 2026-10: standby 12.34 USD, final; 1 drills"
    assert event["metadata"]["correlation_uid"] == "2026-10"


def test_what_is_not_known_is_no_success(stores: dict[str, ObjectStore]) -> None:
    unknown = {"state": "missing", "totals": [], "unknown": ["bill: missing"]}
    keep_report(stores, report(is_known=False, standby=unknown))
    _, (event,), _ = collected(stores)
    assert_valid(event)
    assert (event["status_id"], event["status_code"], event["status_detail"]) == (2, "missing", "bill: missing")


def test_a_later_report_of_the_period_lies_beside_the_first(stores: dict[str, ObjectStore]) -> None:
    keep_report(stores, report())
    keep_report(stores, report(made_at="2026-11-03T06:00:00+00:00"))
    raw, _, coverage = collected(stores)
    assert (len(raw), coverage.state) == (2, State.COMPLETE)


@pytest.mark.parametrize(
    "changed",
    [
        lambda data: data.replace(b"12.34", b"99.34"),
        lambda _data: b"{}",
        lambda data: data.replace(b"2026-10", b"2026-11"),
    ],
)
def test_a_changed_report_is_damaged(stores: dict[str, ObjectStore], changed: Any) -> None:
    keep_report(stores, report())
    key, data = record_of(report())
    for store in stores.values():
        store.put(key, changed(data), mode=OVERWRITE)
    _, _, coverage = collected(stores)
    assert coverage.state is State.GAP
    assert [finding.code for finding in coverage.findings] == ["record-damaged"]


def test_a_site_that_is_away_is_told_and_the_others_keep_it(
    stores: dict[str, ObjectStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_args: Any, **_more: Any) -> Any:
        raise StoreUnavailable("no answer", where="site-a")

    with monkeypatch.context() as patched:
        patched.setattr(stores["site-a"], "put", away)
        kept = keep_report(stores, report())
    assert kept["site-b"] == KEPT
    assert "no answer" in kept["site-a"]
    assert len(collected(stores)[0]) == 1
