"""``holdfast cost`` over bills in folders: figures, and exit codes that tell unknown from zero."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cost_world import OCTOBER, as_csv, line
from folders import make_folders
from holdfast.cli.cost import app


@pytest.fixture
def topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = make_folders(tmp_path)
    document = yaml.safe_load(file.read_text())
    document["cost"] = {
        "exports": {"bill": {"site": "site-b", "bucket": str(tmp_path / "bills"), "prefix": "focus"}},
        "rules": [{"resource": "vm-1", "group": "desk", "role": "standby", "site": "site-b"}],
    }
    file.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("HOLDFAST_TOPOLOGY", str(file))
    monkeypatch.setenv("AIRFLOW_CONN_NONE", json.dumps({"conn_type": "generic"}))
    return file


def deliver(topology: Path, data: bytes) -> None:
    folder = topology.parent / "bills" / "focus" / "2026-10"
    folder.mkdir(parents=True)
    (folder / "focus.csv").write_bytes(data)


def ask(*words: str) -> Any:
    return CliRunner().invoke(app, [*words, "--period", "2026-10"])


def test_standby_cost_is_shown_and_written(topology: Path, tmp_path: Path) -> None:
    deliver(topology, as_csv([line("12.34", month=OCTOBER, ResourceId="vm-1"), line("1", ResourceId="other")]))
    out = tmp_path / "out" / "standby.json"
    answer = ask("standby", "--json", "--output", str(out))
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.output)
    assert document == json.loads(out.read_text())
    assert document["totals"][0]["effective"] == "12.34"
    assert document["unmapped"][0]["effective"] == "1"
    text = ask("standby").output
    assert "12.34 USD" in text
    assert "Unmapped: 1.00 USD" in text


def test_no_bill_is_unknown_and_not_zero(topology: Path) -> None:
    for command in ("standby", "report"):
        answer = ask(command)
        assert answer.exit_code == 7
        assert "unknown" in answer.stderr


def test_a_damaged_bill_is_unknown_and_names_file_and_row(topology: Path) -> None:
    deliver(topology, as_csv([line("1.5")]).replace(b"1.5", b"one"))
    answer = ask("standby")
    assert answer.exit_code == 7
    assert "focus.csv: row 2: BilledCost" in answer.stderr


def test_bad_input_is_one_error(topology: Path) -> None:
    assert CliRunner().invoke(app, ["standby", "--period", "last"]).exit_code == 2
    document = yaml.safe_load(topology.read_text())
    del document["cost"]
    topology.write_text(yaml.safe_dump(document))
    answer = ask("standby")
    assert answer.exit_code == 2
    assert "the topology says nothing of cost" in answer.stderr
