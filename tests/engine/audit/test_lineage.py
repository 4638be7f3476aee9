"""Lineage follows from what was published, and the checks of data with it."""

from __future__ import annotations

import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from audit_world import add_audit
from folders import SITES, FolderRuntime, folder_runtime, make_folders
from holdfast.engine.audit.export import Exported, export_audit
from holdfast.engine.audit.interface import Coverage, Interval, State
from holdfast.engine.audit.lineage import run_event
from holdfast.engine.audit.ocsf.schema import as_event
from holdfast.engine.audit.sources.holdfast import open_holdfast
from holdfast.engine.audit.sources.holdfast_events import normalise
from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.config.audit import HoldfastSource
from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.pipeline.datasets import publish_dataset
from holdfast.engine.pipeline.sync import run as sync
from holdfast.engine.quality import ExpectationsNotMet
from holdfast.engine.quality.results import QualityResult
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.snapshot.records import CommitRecord
from ocsf_world import assert_valid
from world import CutStore, Switchboard

NOW = datetime(2026, 11, 29, tzinfo=UTC)
ALL_TIME = Interval(datetime(2020, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC))
SUITE = {
    "name": "prices",
    "expectations": [{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "close"}}],
}


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    file = make_folders(tmp_path, prices={"expectations": "suite.json"})
    (tmp_path / "suite.json").write_text(json.dumps(SUITE))
    return file


def write(topology: Path, close: list[float | None]) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"close": pa.array(close, pa.float64())}), sink)
    target = topology.parent / SITES[0] / "data" / "prices" / "day.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(sink.getvalue())


def model_record(labels: dict[str, str], **changes: Any) -> CommitRecord:
    fields = {
        "dataset": "volatility-model",
        "epoch": 3,
        "parent": None,
        "write_id": "w",
        "manifest_digest": f"blake3:{'0' * 64}",
        "object_count": 1,
        "size_bytes": 2,
        "taken_at": NOW,
        "committed_at": NOW,
        "site": "gcp-europe-west1",
        "path": "volatility-model",
    }
    return CommitRecord.seal(**{**fields, "labels": labels, **changes})


def results(topology: Path) -> list[QualityResult]:
    folder = topology.parent / SITES[0] / "quality" / "prices"
    return [QualityResult.model_validate_json(file.read_bytes()) for file in sorted(folder.glob("*.json"))]


class CutRuntime(FolderRuntime):
    """A runtime whose sites may be cut off."""

    board = Switchboard()

    def store(self, site: str, **kwargs: Any) -> Any:
        return CutStore(site, self.board, super().store(site, **kwargs))


def runtime_of(topology: Path, *cut: str) -> CutRuntime:
    """The runtime while some sites are away."""
    found = CutRuntime(
        load_topology(topology, os.environ), EnvironmentConnections({}), access=lambda _name, _site: StoreAccess()
    )
    found.board = Switchboard()
    found.board.cut.update(cut)
    return found


def collected(topology: Path, *cut: str) -> tuple[list[dict[str, Any]], Coverage, list[dict[str, Any]]]:
    """The events of lineage, what is told of the window, and the records as OCSF."""
    source = open_holdfast(runtime_of(topology, *cut), "holdfast", HoldfastSource(kind="holdfast"))
    rows = [
        as_event(row) for batch in source.read(ALL_TIME) for row in normalise(batch.raw).to_pylist() if row is not None
    ]
    documents = [one for one in source.documents(ALL_TIME) if one.name.startswith("lineage/")]
    return (
        [json.loads(line) for one in documents for line in one.data.splitlines()],
        source.completeness(ALL_TIME),
        rows,
    )


def events(topology: Path) -> list[dict[str, Any]]:
    return collected(topology)[0]


def told(coverage: Coverage) -> dict[str, State]:
    return {finding.code: finding.state for finding in coverage.findings if finding.code != "window-open"}


def test_a_snapshot_s_lineage_has_its_version_and_what_the_suite_said(topology: Path) -> None:
    write(topology, [1.0, 2.0])
    report = sync(folder_runtime(topology), "desk", "prices")
    (event,) = events(topology)  # at three sites, and one event
    (output,) = event["outputs"]
    assert output["facets"]["version"]["datasetVersion"] == report.snapshot_id
    assert output["facets"]["holdfast_snapshot"]["epoch"] == 1
    assert output["facets"]["dataQualityAssertions"]["assertions"] == [
        {"assertion": "expect_column_values_to_not_be_null", "column": "close", "success": True, "params": {}}
    ]
    assert output["facets"]["holdfast_quality"]["result"] == "met"
    assert told(collected(topology)[1]) == {}


def test_data_that_breaks_its_suite_leaves_a_result_and_no_snapshot(topology: Path) -> None:
    write(topology, [1.0, None])
    with pytest.raises(ExpectationsNotMet):
        sync(folder_runtime(topology), "desk", "prices")
    (result,) = results(topology)
    assert result.ok is False
    assert "unexpected_count=1" in str(result.expectations[0].found)
    lineage, coverage, records = collected(topology)
    assert (lineage, told(coverage)) == ([], {})
    (failed,) = [one for one in records if one["metadata"]["event_code"] == "holdfast.quality/1"]
    assert (failed["status_id"], failed["status_code"]) == (2, "not met")
    assert_valid(failed)


def test_a_version_that_was_never_checked_says_so(topology: Path) -> None:
    write(topology, [1.0])
    sync(folder_runtime(topology), "desk", "prices")
    for file in (topology.parent / SITES[0] / "quality" / "prices").iterdir():
        file.unlink()
    (event,), coverage, _ = collected(topology)
    assert event["outputs"][0]["facets"]["holdfast_quality"]["result"] == "none"
    assert told(coverage) == {"quality-missing": State.COMPLETE}


def test_a_result_that_cannot_be_read_is_a_gap_and_stops_nothing(topology: Path) -> None:
    write(topology, [1.0])
    sync(folder_runtime(topology), "desk", "prices")
    (file,) = (topology.parent / SITES[0] / "quality" / "prices").iterdir()
    file.write_text('{"broken')
    (file.parent / "junk.json").write_text('{"broken')
    (event,), coverage, _ = collected(topology)
    assert event["outputs"][0]["facets"]["holdfast_quality"]["result"] == "unreadable"
    damaged = {finding.where for finding in coverage.findings if finding.code == "record-damaged"}
    assert damaged == {f"quality/prices/{file.name}", "quality/prices/junk.json"}
    assert coverage.state is State.GAP


def test_a_commit_record_that_cannot_be_read_is_a_gap_and_stops_nothing(topology: Path) -> None:
    write(topology, [1.0])
    sync(folder_runtime(topology), "desk", "prices")
    name = f"20261129T120000.000000Z-000001-{'ab' * 16}.json"
    (topology.parent / SITES[0] / "snapshots" / "prices" / name).write_text('{"broken')
    lineage, coverage, _ = collected(topology)
    assert len(lineage) == 1
    assert told(coverage) == {"record-damaged": State.GAP}


def test_two_sites_that_checked_the_same_bytes_each_have_a_result(topology: Path) -> None:
    write(topology, [1.0])
    sync(folder_runtime(topology), "desk", "prices")
    (file,) = (topology.parent / SITES[0] / "quality" / "prices").iterdir()
    other = json.loads(file.read_bytes()) | {"checked_at": "2099-01-01T00:00:00.000000Z"}
    (topology.parent / SITES[1] / "quality" / "prices").mkdir(parents=True)
    (topology.parent / SITES[1] / "quality" / "prices" / file.name).write_bytes(canonical(other))
    _, coverage, records = collected(topology)
    assert len([one for one in records if one["metadata"]["event_code"] == "holdfast.quality/1"]) == 2
    assert told(coverage) == {"written-twice": State.COMPLETE}


def exported(topology: Path, folder: Path, *cut: str) -> tuple[Exported, list[dict[str, Any]]]:
    """An export up to now, and its lineage."""
    done = export_audit(runtime_of(topology, *cut), output=folder)
    names = [one.file.path for one in done.manifest.documents if "/lineage/" in one.file.path]
    return done, [json.loads(line) for name in names for line in (folder / name).read_text().splitlines()]


def test_what_was_published_at_a_site_that_is_away_is_unknown_and_caught_up(topology: Path, tmp_path: Path) -> None:
    add_audit(topology, sources={"holdfast": {"kind": "holdfast"}})
    write(topology, [1.0])
    published = publish_dataset(folder_runtime(topology), "desk", "prices").snapshot_id
    done, lineage = exported(topology, tmp_path / "first", SITES[0])
    assert (done.state, lineage) == (State.UNKNOWN, [])
    write(topology, [2.0])
    later = publish_dataset(folder_runtime(topology), "desk", "prices").snapshot_id
    done, lineage = exported(topology, tmp_path / "second")
    assert {one["outputs"][0]["facets"]["version"]["datasetVersion"] for one in lineage} == {published, later}
    assert done.state is not State.UNKNOWN


@given(
    labels=st.dictionaries(
        st.sampled_from(["run", "step", "model_digest", "dataset_snapshot"]),
        st.text(st.characters(exclude_categories=["Cs"])) | st.just("9" * 5000),
    ),
    year=st.sampled_from([1, 999, 2026, 9999]),
)
def test_whatever_a_record_says_it_has_an_event(labels: dict[str, str], year: int) -> None:
    moment = NOW.replace(year=year)
    record = model_record(labels, taken_at=moment, committed_at=moment)
    assert run_event(record, "holdfast://x", trained_on="market-data")["outputs"][0]["name"] == "volatility-model"


def test_another_suite_over_the_same_bytes_is_another_result(topology: Path) -> None:
    write(topology, [1.0, None])
    for name in ("prices", "prices-2"):
        (topology.parent / "suite.json").write_text(json.dumps({**SUITE, "name": name}))
        with pytest.raises(ExpectationsNotMet):
            sync(folder_runtime(topology), "desk", "prices")
    assert sorted(one.suite for one in results(topology)) == ["prices", "prices-2"]


def test_a_model_names_the_data_it_was_trained_on_and_its_checkpoint() -> None:
    labels = {"run": "market-risk-volatility", "step": "300", "model_digest": "d", "dataset_snapshot": "ab" * 16}
    record = model_record(labels)
    event = run_event(record, "holdfast://x", trained_on="market-data")
    assert event == run_event(record, "holdfast://x", trained_on="market-data")
    assert event["inputs"][0]["name"] == "market-data"
    assert event["inputs"][0]["facets"]["version"]["datasetVersion"] == "ab" * 16
    assert event["run"]["facets"]["holdfast_checkpoint"] == {
        "_producer": event["producer"],
        "_schemaURL": "urn:holdfast:facet:1:CheckpointRunFacet",
        "run": "market-risk-volatility",
        "step": 300,
        "modelDigest": "d",
    }


def test_no_event_carries_a_secret_of_the_topology(topology: Path) -> None:
    document = yaml.safe_load(topology.read_text())
    document["groups"]["desk"]["description"] = "canary-7f3e"
    topology.write_text(yaml.safe_dump(document))
    write(topology, [1.0])
    sync(folder_runtime(topology), "desk", "prices")
    assert "canary-7f3e" not in json.dumps(events(topology))
