"""`holdfast residency` over three emulated clouds: what was decided lies in each of them, and every copy is found."""

from __future__ import annotations

import gc
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from holdfast.cli.main import app
from holdfast.engine.audit.residency.decided import Decisions
from holdfast.engine.objectstore.interface import OVERWRITE
from holdfast.engine.policy.records import read_lines
from holdfast.engine.runtime import Runtime

AWS, GCP, AZURE = "aws-eu-west-1", "gcp-europe-west1", "azure-westeurope"
POLICY = """
@id("two clouds are enough")
permit (principal, action, resource) when { ["aws", "gcp"].contains(context.target.cloud) };
@id("copies come from where the data is made")
forbid (principal, action == Holdfast::Action::"copy", resource)
when { context has source && context.source.site != "aws-eu-west-1" };
"""


@pytest.fixture
def group(sandbox: Any, sandbox_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A group of its own whose one dataset is bound by a policy, active at the S3 site, with buckets' prefixes new."""
    name = f"g-{uuid.uuid4().hex[:8]}"
    topology = yaml.safe_load(Path(sandbox_env["HOLDFAST_TOPOLOGY"]).read_text())
    for site in topology["sites"].values():
        site["prefix"] = name
    topology |= {
        "services": {},
        "training": {},
        "vaults": {},
        "residency": {"bound": {"policy": "bound.cedar"}},
        "datasets": {name: {"path": name, "residency": "bound"}},
    }
    mine = {**topology["groups"]["market-risk"], "datasets": [name], "training": [], "services": [], "vaults": []}
    topology["groups"] = {name: mine}
    (tmp_path / "topology.yaml").write_text(yaml.safe_dump(topology))
    (tmp_path / "bound.cedar").write_text(POLICY)
    monkeypatch.setenv("HOLDFAST_TOPOLOGY", str(tmp_path / "topology.yaml"))
    monkeypatch.setenv("HOLDFAST_STATE", str(tmp_path / "state"))
    assert CliRunner().invoke(app, ["authority", "init", name]).exit_code == 0
    return name


def check(code: int) -> Any:
    done = CliRunner().invoke(app, ["residency", "check", "--json"])
    assert done.exit_code == code, done.output + done.stderr
    return json.loads(done.stdout)


def test_decisions_reach_every_cloud_and_every_copy_is_judged(group: str) -> None:
    runtime = Runtime.from_environment()
    runtime.store(AWS).put(f"data/{group}/part.bin", b"1" * 1000, mode=OVERWRITE)
    done = CliRunner().invoke(app, ["sync", "run", "--json"])
    assert done.exit_code == 0, done.output  # a refused target is told of, and no failure
    gc.collect()  # the command's own runtime: its writer is free again
    assert runtime.decisions is not None
    shipped = runtime.decisions.ship(everything=True)
    assert (shipped.left, shipped.errors) == (0, {})
    logs = {
        site: {info.key: runtime.store(site).get(info.key) for info in runtime.store(site).list("decisions/")}
        for site in (AWS, GCP, AZURE)
    }
    assert logs[AWS] == logs[GCP] == logs[AZURE]
    lines = [pair for key, data in sorted(logs[AZURE].items()) for pair in read_lines(data, key)]
    decided = Decisions()
    decided.add(lines)
    assert decided.findings == []
    assert {(one.target.site, one.allowed, one.determining) for one, _ in lines} == {
        (GCP, True, ("two clouds are enough",)),
        (AZURE, False, ()),
    }
    report = check(0)
    replica = next(one for one in report["copies"] if one["site"] == GCP)
    assert replica["decision"] in {one.id for one, _ in lines}
    assert {one["site"] for one in report["copies"]} == {AWS, GCP}
    runtime.store(AZURE).put(f"data/{group}/by-hand.bin", b"22", mode=OVERWRITE)
    breach = next(one for one in check(6)["copies"] if one["verdict"] == "breach")
    assert (breach["site"], breach["kind"], breach["size_bytes"]) == (AZURE, "stray", 2)
