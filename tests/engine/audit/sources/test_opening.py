"""The two sources as a topology opens them; and what a delete run leaves."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from folders import SITES, FolderRuntime, add_vault, folder_runtime, make_folders
from holdfast.clock import FakeClock
from holdfast.engine.audit.interface import AuditSource, Interval, State
from holdfast.engine.audit.ocsf.schema import as_event
from holdfast.engine.audit.sources.airflow import open_airflow
from holdfast.engine.audit.sources.holdfast import open_holdfast
from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.config.audit import AirflowSource, HoldfastSource
from holdfast.engine.config.sync import Deletes
from holdfast.engine.replication import replicate
from holdfast.engine.replication.deletes import Keep, SourceState, mark, remove
from holdfast.engine.snapshot import take_and_publish
from holdfast.errors import ConfigError, UnknownName
from ocsf_world import assert_valid

DAY = 86400.0


@pytest.fixture
def runtime(tmp_path: Path) -> FolderRuntime:
    """Its vault is named in the topology, and was not made yet."""
    return folder_runtime(add_vault(make_folders(tmp_path)))


def window() -> Interval:
    now = datetime.now(UTC)
    return Interval(now - timedelta(hours=1), now + timedelta(hours=1))


def test_a_replica_whose_objects_were_removed_tells_each_step(runtime: FolderRuntime):
    active, standby = (runtime.store(site) for site in SITES[:2])
    clock = FakeClock(datetime.now(UTC))
    records = []
    for content in (b"one", b"two"):
        clock.advance(1)
        active.put("data/prices/a", content)
        records.append(take_and_publish(active, dataset="prices", path="prices", epoch=1, site=SITES[0], clock=clock))
        replicate(
            active, standby, record=records[-1], source_site=SITES[0], target_site=SITES[1], residency=None,
            topology_sites=runtime.topology.sites, clock=clock,
        )  # fmt: skip
    policy = Deletes(enabled=True, delay_seconds=7 * DAY, most_objects=100, most_share=1.0)
    how = {"site": SITES[1], "epoch": 1, "policy": policy, "clock": clock}
    source = SourceState(SITES[0], healthy=True, listing_complete=True)
    mark(standby, "prices", source=source, **how)
    clock.advance(7 * DAY + 1)
    report = remove(standby, "prices", source=source, keep=Keep(newest=1), **how)
    assert report.expired_snapshots == (records[0].snapshot_id,)

    found = open_holdfast(runtime, "own", HoldfastSource(kind="holdfast"))
    assert isinstance(found, AuditSource)
    interval = window()
    events = [as_event(row) for batch in found.read(interval) for row in found.normalise(batch.raw).to_pylist()]
    kinds = Counter(event["metadata"]["event_code"] for event in events)
    assert kinds == {
        "holdfast.snapshot/1": 2,
        "holdfast.receipt/1": 1,  # the expired snapshot's went with it
        "holdfast.tombstone/1": 1,
        "holdfast.tombstone-finished/1": 1,
        "holdfast.expired/1": 1,
    }
    for event in events:
        assert_valid(event)
    coverage = found.completeness(interval)
    assert {finding.code for finding in coverage.findings} == {"window-open"}
    assert coverage.state is State.LATE
    # The replica alone: what it expired is no gap of the snapshot that follows it.
    for info in list(active.list("snapshots/")):
        active.delete(info.key)
    list(found.read(interval))
    assert {finding.code for finding in found.completeness(interval).findings} == {"window-open"}


def test_only_the_sites_that_are_named_are_read(runtime: FolderRuntime):
    for site in SITES:
        runtime.store(site).put(f"plans/desk/{site}/aborted.json", json.dumps({"site": site}).encode())
    found = open_holdfast(runtime, "own", HoldfastSource(kind="holdfast", sites=(SITES[1],)))
    objects = [one for batch in found.read(window()) for one in batch.objects]
    assert [one.metadata["sites"] for one in objects] == [SITES[1]]
    with pytest.raises(UnknownName):
        open_holdfast(runtime, "own", HoldfastSource(kind="holdfast", sites=("nowhere",)))


def test_an_airflow_is_opened_by_its_connection(tmp_path: Path):
    topology = load_topology(make_folders(tmp_path), {})
    url = {"conn_type": "http", "host": "127.0.0.1", "port": 9, "login": "me", "password": "canary"}
    runtime = FolderRuntime(topology, EnvironmentConnections({"AIRFLOW_CONN_AIRFLOW_API": json.dumps(url)}))
    found = open_airflow(runtime, "airflow", AirflowSource(kind="airflow", connection="airflow_api"))
    assert isinstance(found, AuditSource)
    assert (found.name, found.kind) == ("airflow", "airflow")
    with pytest.raises(ConfigError, match="AIRFLOW_CONN_ANOTHER"):
        open_airflow(runtime, "airflow", AirflowSource(kind="airflow", connection="another"))
