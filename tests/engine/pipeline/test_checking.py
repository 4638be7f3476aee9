"""Every version of a dataset that has a suite gets a result of it, however it was published."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from folders import SITES, add_vault, folder_runtime, make_folders
from holdfast.engine.audit.interface import Interval
from holdfast.engine.audit.sources.holdfast import open_holdfast
from holdfast.engine.config.audit import HoldfastSource
from holdfast.engine.pipeline.datasets import publish_dataset, validate_dataset
from holdfast.engine.pipeline.going_back import roll_back
from holdfast.engine.pipeline.sync import run as sync
from holdfast.engine.pipeline.vaults.backing_up import back_up_subject
from holdfast.engine.pipeline.vaults.opening import made
from holdfast.engine.pipeline.vaults.restoring import restored_live
from holdfast.engine.quality import ExpectationsNotMet
from holdfast.engine.quality.results import QualityResult
from holdfast.engine.snapshot import CommitRecord

SUITE = {
    "name": "prices",
    "expectations": [{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "close"}}],
}


class Desk:
    """One dataset with a suite, at three sites in folders.

    Args:
        folder: where everything lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.topology = add_vault(make_folders(folder, prices={"expectations": "suite.json"}))
        self.suite = folder / "suite.json"
        self.suite.write_text(json.dumps(SUITE))
        self.runtime = folder_runtime(self.topology)

    def write(self, *close: float | None) -> None:
        sink = io.BytesIO()
        pq.write_table(pa.table({"close": pa.array(close, pa.float64())}), sink)
        target = self.folder / SITES[0] / "data" / "prices" / "day.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(sink.getvalue())

    def publish(self, *close: float | None) -> CommitRecord:
        self.write(*close)
        return publish_dataset(self.runtime, "desk", "prices")

    def results(self) -> dict[str, QualityResult]:
        """By the manifest's digest."""
        files = sorted((self.folder / SITES[0] / "quality" / "prices").glob("*.json"))
        found = [QualityResult.model_validate_json(file.read_bytes()) for file in files]
        return {one.manifest_digest: one for one in found}

    def forget_results(self) -> None:
        for file in (self.folder / SITES[0] / "quality" / "prices").glob("*.json"):
            file.unlink()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_published_version_has_a_result_met_or_not(desk: Desk) -> None:
    good, bad = desk.publish(1.0), desk.publish(1.0, None)
    found = desk.results()
    assert {digest: one.ok for digest, one in found.items()} == {good.manifest_digest: True, bad.manifest_digest: False}
    with pytest.raises(ExpectationsNotMet):
        validate_dataset(desk.runtime, "desk", "prices")


def test_a_version_that_did_not_change_is_checked_once(desk: Desk) -> None:
    record = desk.publish(1.0)
    first = desk.results()
    assert first
    assert publish_dataset(desk.runtime, "desk", "prices") == record
    assert desk.results() == first
    desk.forget_results()
    publish_dataset(desk.runtime, "desk", "prices")
    assert desk.results().keys() == first.keys()


def test_a_suite_that_cannot_be_read_leaves_the_version_without_a_result_and_it_is_told(desk: Desk) -> None:
    desk.suite.write_text("{")
    record = desk.publish(1.0)
    assert desk.results() == {}
    source = open_holdfast(desk.runtime, "holdfast", HoldfastSource(kind="holdfast"))
    now = desk.runtime.clock.now()
    window = Interval(now.replace(year=now.year - 1, day=1), now.replace(year=now.year + 1, day=1))
    assert list(source.read(window))
    (finding,) = [one for one in source.completeness(window).findings if one.code == "quality-missing"]
    assert finding.where == record.key


def test_a_check_before_training_keeps_what_it_found(desk: Desk) -> None:
    record = desk.publish(1.0)
    desk.forget_results()
    assert validate_dataset(desk.runtime, "desk", "prices")["expectations"] == 1
    assert desk.results().keys() == {record.manifest_digest}


def test_a_restored_version_has_a_result(desk: Desk) -> None:
    desk.publish(1.0)
    made(desk.runtime, "desk")
    back_up_subject(desk.runtime, "desk", "prices", "desk")
    desk.publish(2.0)
    desk.forget_results()
    done = restored_live(desk.runtime, "desk", "desk", source="prices", reason="it was asked for")
    assert done.made
    assert desk.results()[done.record.manifest_digest].ok


def test_a_version_that_is_gone_back_to_has_a_result(desk: Desk) -> None:
    first = desk.publish(1.0)
    sync(desk.runtime, "desk", "prices")  # the others keep its bytes
    desk.publish(2.0)
    desk.forget_results()
    report = roll_back(desk.runtime, "desk", "prices", to=first.snapshot_id, reason="the newer one is wrong")
    assert desk.results()[report.record.manifest_digest].ok
