"""``holdfast cost`` over bills in folders: figures, and exit codes that tell unknown from zero."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cost_world import OCTOBER, as_csv, line
from folders import folder_runtime, make_folders
from holdfast.cli.cost import app
from holdfast.engine.cost.prices import GIB
from holdfast.engine.snapshot.receipts import Receipt, write_receipt


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


@pytest.mark.parametrize("state", ["", "file"])
def test_where_no_answer_can_be_kept_nothing_is_asked_and_it_is_said(
    topology: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    document = yaml.safe_load(topology.read_text())
    document["sites"]["site-b"]["cloud"] = "aws"
    document["cost"]["apis"] = {"site-b": {"kind": "cost-explorer", "connection": "none", "scope": "123456789012"}}
    document["cost"]["exports"]["bill"]["site"] = "site-a"
    topology.write_text(yaml.safe_dump(document))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HOLDFAST_STATE", str(tmp_path / state) if state else "~nobody-of-this-name/state")
    answer = ask("standby", "--ask")
    assert answer.exit_code == 2, answer.output
    assert isinstance(answer.exception, SystemExit)
    assert "HOLDFAST_STATE" in answer.output


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


def test_a_report_holds_every_part_and_our_lines_are_written_as_focus(topology: Path, tmp_path: Path) -> None:
    deliver(topology, as_csv([line("12.34", month=OCTOBER, ResourceId="vm-1")]))
    answer = ask("report", "--json", "--focus", str(tmp_path / "focus"))
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.output)
    parts = {"standby", "egress", "drills", "objectives", "idle_commitments", "spot", "locked", "advice", "notes"}
    assert parts <= set(document)
    assert (document["is_known"], document["is_final"]) == (True, True)
    assert {one.name for one in (tmp_path / "focus").iterdir()} == {"focus.parquet", "focus.csv", "focus.json"}
    assert "12.34 USD" in ask("report").output


def test_a_journal_that_cannot_be_read_is_told_and_spoils_no_report(topology: Path) -> None:
    deliver(topology, as_csv([line("1", month=OCTOBER, ResourceId="vm-1")]))
    folder = topology.parent / "site-c" / "evidence" / "20261003T000000Z-abcdef"
    folder.mkdir(parents=True)
    (folder / "journal.json").write_text("[]")
    answer = ask("report", "--json")
    assert answer.exit_code == 0, answer.output
    assert any("20261003T000000Z-abcdef" in note for note in json.loads(answer.output)["notes"])


def test_a_section_without_exports_knows_nothing(topology: Path) -> None:
    document = yaml.safe_load(topology.read_text())
    document["cost"] = {}
    topology.write_text(yaml.safe_dump(document))
    for command in ("report", "standby", "egress", "objectives", "advice"):
        answer = ask(command)
        assert answer.exit_code == 7, answer.output
        assert "no export is named" in answer.stderr
        assert json.loads(ask(command, "--json").stdout)  # one document: the error is not another


def test_moved_bytes_are_shown_with_their_price(topology: Path) -> None:
    document = yaml.safe_load(topology.read_text())
    document["sites"]["site-a"] |= {"egress_cost_per_gib": 0.5, "region": "there"}
    topology.write_text(yaml.safe_dump(document))
    assert ask("egress").exit_code == 7  # nothing was metered and nothing billed
    store = folder_runtime(topology).store("site-b")
    for day in (3, 5, 7):
        write_receipt(store, receipt(day))
        file = topology.parent / "site-b" / "receipts" / "prices" / f"{day:032x}" / "site-b.json"
        os.utime(file, (datetime(2026, 10, day, tzinfo=UTC).timestamp(),) * 2)
    answer = ask("egress", "--json")
    assert answer.exit_code == 0, answer.output
    (moved,) = json.loads(answer.output)["metered"]
    assert moved["least_cost"]["amount"] == "3"
    assert "3.00 USD" in ask("egress").output
    answer = ask("objectives", "--json")
    assert answer.exit_code == 0, answer.output
    (front,) = json.loads(answer.output)["rpo"]
    assert (front["syncs"], len(front["steps"])) == (3, 5)
    assert "RPO of prices at site-b" in ask("objectives").output


def receipt(day: int) -> Receipt:
    return Receipt(
        subject="prices",
        item=f"{day:032x}",
        manifest_digest="blake3:00",
        site="site-b",
        source_site="site-a",
        object_count=1,
        size_bytes=2 * GIB,
        read_back_objects=1,
        read_back_bytes=2 * GIB,
        carried_objects=0,
        verified_at=datetime(2026, 10, day, tzinfo=UTC),
    )


def test_a_drill_without_a_journal_or_a_price_is_unknown(topology: Path) -> None:
    answer = CliRunner().invoke(app, ["drill", "20261012T120000Z-abc123"])
    assert answer.exit_code == 7
    assert "no journal" in answer.stderr
    (topology.parent / "journal.json").write_text("{}")
    for odd in ("../..", "..%2f..", "a/../../..", "x\ny", "[red]x"):
        refused = CliRunner().invoke(app, ["drill", odd])
        assert (refused.exit_code, "this is no drill's id" in refused.stderr) == (2, True), odd
    journal = json.loads((Path(__file__).parents[1] / "golden" / "evidence" / "journal.json").read_text())
    folder = topology.parent / "site-b" / "evidence" / journal["drill_id"]
    folder.mkdir(parents=True)
    (folder / "journal.json").write_text(json.dumps(journal))
    answer = CliRunner().invoke(app, ["drill", journal["drill_id"], "--json"])
    assert answer.exit_code == 7
    assert json.loads(answer.stdout)["state"] == "unknown"
    assert (
        "cost is unknown: no bill has a line of it, and the price list has no price for what it used" in answer.stderr
    )


def test_a_report_is_recorded_at_the_sites_when_that_is_asked_for(
    topology: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(topology, as_csv([line("12.34", month=OCTOBER, ResourceId="vm-1")]))
    assert ask("report").exit_code == 0
    assert not list(topology.parent.glob("site-*/costs"))
    answer = ask("report", "--record", "--json")
    assert answer.exit_code == 0, answer.output
    for site in ("site-a", "site-b", "site-c"):
        (file,) = (topology.parent / site / "costs" / "2026-10").iterdir()
        assert json.loads(file.read_text()) == json.loads(answer.stdout)
        assert f"{site}: kept" in answer.stderr
    monkeypatch.setattr("holdfast.cli.cost.keep_report", lambda *_args: {"site-a": "no answer"})
    answer = ask("report", "--record")
    assert (answer.exit_code, "no site keeps the report" in answer.stderr) == (1, True)


def test_advice_is_shown_with_its_lines(topology: Path) -> None:
    idle = {"CommitmentDiscountId": "c-1", "CommitmentDiscountStatus": "Unused", "ResourceId": "vm-1"}
    deliver(topology, as_csv([line("7.5", month=OCTOBER, **idle)]))
    answer = ask("advice")
    assert answer.exit_code == 0, answer.output
    assert "saves 7.50 USD a month" in answer.output
    assert "2026-10/focus.csv row 2, charge " in answer.output
    assert json.loads(ask("advice", "--json").output)["advice"][0]["kind"] == "idle-commitment"


def test_an_unused_commitment_without_an_id_is_advised_too(topology: Path) -> None:
    idle = {"CommitmentDiscountStatus": "Unused", "ResourceId": "vm-1"}
    used = {"CommitmentDiscountStatus": "Used", "ResourceId": "vm-2"}
    named = {**idle, "CommitmentDiscountId": "c-1"}
    lines = [line(cost, month=OCTOBER, **of) for cost, of in (("7", idle), ("3", used), ("2", named))]
    deliver(topology, as_csv(lines))
    document = json.loads(ask("advice", "--json").output)
    assert [(one["saving"], one["line_count"]) for one in document["advice"]] == [("7", 1), ("2", 1)]
    assert "without an id" in document["advice"][0]["what"]
    assert [(one["commitment"], one["used"]) for one in document["idle_commitments"]] == [(None, None), ("c-1", None)]


@pytest.mark.parametrize("option", ["--output", "--focus"])
def test_a_path_that_cannot_be_written_is_bad_input(topology: Path, tmp_path: Path, option: str) -> None:
    deliver(topology, as_csv([line("1", month=OCTOBER, ResourceId="vm-1")]))
    (tmp_path / "file").touch()
    answer = ask("report", option, str(tmp_path / "file" / "below"))
    assert answer.exit_code == 2
    assert "it cannot be written" in answer.stderr


def test_bad_input_is_one_error(topology: Path) -> None:
    assert CliRunner().invoke(app, ["standby", "--period", "last"]).exit_code == 2
    document = yaml.safe_load(topology.read_text())
    del document["cost"]
    topology.write_text(yaml.safe_dump(document))
    answer = ask("standby")
    assert answer.exit_code == 2
    assert "the topology says nothing of cost" in answer.stderr
