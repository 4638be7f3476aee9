"""Lineage follows from what was published, and the checks of data with it."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from folders import SITES, folder_runtime, make_folders
from holdfast.engine.audit.lineage import lineage_documents, run_event
from holdfast.engine.pipeline.sync import run as sync
from holdfast.engine.quality import ExpectationsNotMet
from holdfast.engine.quality.results import QualityResult
from holdfast.engine.snapshot.records import CommitRecord

NOW = datetime(2026, 11, 29, tzinfo=UTC)
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


def results(topology: Path) -> list[QualityResult]:
    folder = topology.parent / SITES[0] / "quality" / "prices"
    return [QualityResult.model_validate_json(file.read_bytes()) for file in sorted(folder.glob("*.json"))]


def events(topology: Path) -> list[dict[str, Any]]:
    runtime = folder_runtime(topology)
    documents = list(lineage_documents(runtime, datetime(2020, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)))
    return [json.loads(line) for one in documents for line in one.data.splitlines()]


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
    assert output["facets"]["holdfast_quality"]["ok"] is True


def test_data_that_breaks_its_suite_leaves_a_result_and_no_snapshot(topology: Path) -> None:
    write(topology, [1.0, None])
    with pytest.raises(ExpectationsNotMet):
        sync(folder_runtime(topology), "desk", "prices")
    (result,) = results(topology)
    assert result.ok is False
    assert "unexpected_count=1" in str(result.expectations[0].found)
    assert events(topology) == []


def test_another_suite_over_the_same_bytes_is_another_result(topology: Path) -> None:
    write(topology, [1.0, None])
    for name in ("prices", "prices-2"):
        (topology.parent / "suite.json").write_text(json.dumps({**SUITE, "name": name}))
        with pytest.raises(ExpectationsNotMet):
            sync(folder_runtime(topology), "desk", "prices")
    assert sorted(one.suite for one in results(topology)) == ["prices", "prices-2"]


def test_a_model_names_the_data_it_was_trained_on_and_its_checkpoint() -> None:
    record = CommitRecord.seal(
        dataset="volatility-model",
        epoch=3,
        parent=None,
        write_id="w",
        manifest_digest=f"blake3:{'0' * 64}",
        object_count=1,
        size_bytes=2,
        taken_at=NOW,
        committed_at=NOW,
        site="gcp-europe-west1",
        path="volatility-model",
        labels={"run": "market-risk-volatility", "step": "300", "model_digest": "d", "dataset_snapshot": "ab" * 16},
    )
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
