"""`holdfast sync` over three emulated clouds: S3, Google Cloud Storage and Azure Blob."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from holdfast.cli.main import app
from holdfast.engine.objectstore.interface import OVERWRITE
from holdfast.engine.runtime import Runtime

AWS, GCP, AZURE = "aws-eu-west-1", "gcp-europe-west1", "azure-westeurope"


@pytest.fixture
def group(sandbox: Any, sandbox_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A group of its own with one dataset, active at the S3 site."""
    name = f"g-{uuid.uuid4().hex[:8]}"
    topology = yaml.safe_load(Path(sandbox_env["HOLDFAST_TOPOLOGY"]).read_text())
    topology |= {"services": {}, "training": {}, "datasets": {name: {"path": name}}}
    topology["groups"] = {
        name: {**topology["groups"]["market-risk"], "datasets": [name], "training": [], "services": []}
    }
    (tmp_path / "topology.yaml").write_text(yaml.safe_dump(topology))
    monkeypatch.setenv("HOLDFAST_TOPOLOGY", str(tmp_path / "topology.yaml"))
    assert CliRunner().invoke(app, ["authority", "init", name]).exit_code == 0
    return name


@pytest.fixture
def holdfast() -> Callable[..., Any]:
    def run(*words: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, ["sync", *words, "--json"])
        assert done.exit_code == code, done.output + done.stderr
        return json.loads(done.stdout)

    return run


def test_a_dataset_goes_from_s3_to_google_and_azure_and_a_changed_byte_is_found(
    group: str, holdfast: Callable[..., Any]
) -> None:
    runtime = Runtime.from_environment()
    source = runtime.store(AWS)
    for number in range(5):
        source.put(f"data/{group}/part-{number}.bin", bytes([number]) * 1000, mode=OVERWRITE)
    source.put(f"data/{group}/large.bin", bytes(range(256)) * 4096 * 20, mode=OVERWRITE)
    plan = holdfast("plan")["plans"][0]
    assert (plan["copy_objects"], plan["copy_bytes"]) == (6, 5000 + 256 * 4096 * 20)
    report = holdfast("run")["datasets"][0]["report"]
    assert {one["site"]: (one["copied_objects"], one["verified_objects"]) for one in report["targets"]} == {
        GCP: (6, 6),
        AZURE: (6, 6),
    }
    assert [site["missing_snapshots"] for site in holdfast("status")[0]["sites"]] == [0, 0, 0]
    source.put(f"data/{group}/part-3.bin", b"x" * 1000, mode=OVERWRITE)
    again = holdfast("run")["datasets"][0]["report"]
    assert (again["changed_objects"], again["read_bytes"]) == (1, 1000)
    assert holdfast("verify")["ok"] is True
    runtime.store(AZURE).put(f"data/{group}/part-1.bin", b"\1" * 999 + b"\0", mode=OVERWRITE)
    damaged = holdfast("verify", code=1)["datasets"][group]
    assert {one["site"]: one["report"]["corrupt"] for one in damaged} == {AWS: [], GCP: [], AZURE: ["part-1.bin"]}
