"""Backups and restore drills across the three emulated clouds, by the topology the sandbox comes with."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.drill.evidence import load_or_create_key, verify_evidence
from holdfast.engine.pipeline import publish_dataset
from holdfast.engine.pipeline.vaults.backing_up import back_up_subject
from holdfast.engine.pipeline.vaults.drilling import drill_restore
from holdfast.engine.pipeline.vaults.opening import made
from holdfast.engine.recovery.interface import Progress
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import put_snapshot
from holdfast.sandbox.demo_vault import back_up_and_drill, vault_rows
from holdfast.sandbox.scene import begin_authority, seed_data

pytest.importorskip("great_expectations")
pytest.importorskip("arch")
np = pytest.importorskip("numpy")
xgboost = pytest.importorskip("xgboost")
TOPOLOGY = Path(__file__).resolve().parents[3] / "include" / "holdfast.yaml"
GROUP, DATASET, MODEL = "market-risk", "market-data", "volatility-model"


@pytest.fixture
def runtime(sandbox: Any, tmp_path: Path) -> Runtime:
    """The group at work in a corner of the sandbox's buckets, with an empty vault."""
    environ = {**sandbox.environment(), "HOLDFAST_SIGNING_KEY": ""}
    topology = load_topology(TOPOLOGY, {**os.environ, **environ})
    corner = f"drills/{uuid.uuid4().hex}"
    sites = {name: site.model_copy(update={"prefix": corner}) for name, site in topology.sites.items()}
    path, topology = topology.path, topology.model_copy(update={"sites": sites})
    topology._path = path
    made_runtime = Runtime(topology, EnvironmentConnections(environ), environ=environ)
    begin_authority(made_runtime, GROUP)
    seed_data(made_runtime, GROUP)
    publish_dataset(made_runtime, GROUP, DATASET)
    made(made_runtime, GROUP)
    return made_runtime


def publish_model(runtime: Runtime, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = xgboost.DMatrix(rng.normal(size=(60, 14)), label=rng.normal(size=60))
    booster = xgboost.train({"seed": seed, "nthread": 1}, table, num_boost_round=5)
    put_snapshot(
        runtime.store("aws-eu-west-1"),
        dataset=MODEL,
        files={"model.ubj": bytes(booster.save_raw("ubj"))},
        epoch=1,
        site="aws-eu-west-1",
        labels={},
        clock=runtime.clock,
    )


def test_the_market_data_and_the_model_come_back_in_the_third_cloud(runtime: Runtime, tmp_path: Path) -> None:
    publish_model(runtime, 1)
    for subject in (DATASET, MODEL):
        back_up_subject(runtime, GROUP, subject, GROUP)
        journal = drill_restore(runtime, GROUP, subject, GROUP, output=tmp_path / subject)
        assert journal.verdict == "pass", journal.as_document()
        clouds = (journal.source["cloud"], journal.vault["cloud"], journal.target["cloud"])
        assert clouds == ("aws", "azure", "gcp")
        assert journal.rpo_seconds is not None
        assert journal.rpo_seconds < 3600
        store = runtime.store("gcp-europe-west1")
        assert not list(store.list("restore-drills/"))
        assert [info.key for info in store.list(f"evidence/{journal.drill_id}/")]
        key = load_or_create_key(runtime.environ).public_key()
        assert verify_evidence(tmp_path / subject, public_key=key).verdict == "pass"
    assert journal.model is not None
    assert journal.model["reference"] == "recorded with the backup"


def test_the_demos_table_has_the_figures_of_both(runtime: Runtime, tmp_path: Path) -> None:
    told: list[str] = []
    figures = back_up_and_drill(runtime, GROUP, tmp_path, say=told.append)
    assert figures.passed
    rows = {row[0].strip(): row[1:] for row in vault_rows(figures)}
    assert rows["Restore drill"] == ("pass", "pass", True)
    assert rows["rows"][0] == rows["rows"][1] == "5008 rows"
    size = f"{figures.made.report.backup.size_bytes:,} B"
    assert rows[f"Backup of {DATASET}"][1].startswith(size)
    assert rows["Restore RTO"][1] == f"{figures.journal.rto_seconds['total']:.2f} s"
    assert {row[-1] for row in rows.values()} == {True}
    assert "pass" in told[-1]


def test_a_cloud_that_fails_in_the_middle_fails_the_drill(runtime: Runtime, sandbox: Any, tmp_path: Path) -> None:
    back_up_subject(runtime, GROUP, DATASET, GROUP)

    def cut(told: Progress) -> None:
        if (told.step, told.phase) == ("restore", "begun"):
            sandbox.fault("azure-westeurope", "down")

    journal = drill_restore(runtime, GROUP, DATASET, GROUP, output=tmp_path / "out", progress=cut)
    assert (journal.status, journal.verdict) == ("failed", "fail")
    assert journal.error is not None
    assert journal.error["error"] == "StoreUnavailable"
    assert not list(runtime.store("gcp-europe-west1").list("restore-drills/"))
    assert verify_evidence(tmp_path / "out").verdict == "fail"
    assert journal.cleanup["clean"] is True
