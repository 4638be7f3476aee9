"""`holdfast audit`: export, verify, coverage, prove, check-proof, keys, over sites in folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from audit_world import add_audit
from folders import folder_runtime, make_folders
from holdfast.cli.main import app
from holdfast.engine.drill.evidence import write_evidence
from holdfast.engine.pipeline.sync import run as sync
from sample_journal import sample_journal


class Desk:
    """A topology in folders whose own records are exported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.topology = add_audit(make_folders(folder))
        file = folder / "site-a" / "data" / "prices" / "day.csv"
        file.parent.mkdir(parents=True)
        file.write_text("1,2\n")
        sync(folder_runtime(self.topology), "desk", "prices")

    def run(self, *words: str | Path) -> Result:
        return CliRunner().invoke(app, ["audit", *map(str, words)])

    def json(self, *words: str | Path) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def export(self, name: str = "out") -> Path:
        done = self.run("export", "--topology", self.topology, "--output", self.folder / name)
        assert done.exit_code == 0, done.output
        return self.folder / name

    @property
    def key(self) -> str:
        (found,) = self.json("keys", "--topology", self.topology)["keys"]
        return str(found)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("HOLDFAST_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("AIRFLOW_CONN_NONE", json.dumps({"conn_type": "generic"}))
    monkeypatch.delenv("HOLDFAST_SIGNING_KEY", raising=False)
    monkeypatch.delenv("HOLDFAST_AUDIT_KEYS", raising=False)
    return Desk(tmp_path)


def test_an_export_is_verified_with_the_key_that_was_given_before(desk: Desk) -> None:
    out, key = desk.export(), desk.key
    done = desk.run("verify", out, "--key", key)
    assert done.exit_code == 0, done.output
    assert "fine" in done.output
    told = desk.json("verify", out, "--key", key)
    assert (told["verdict"], told["exit_code"], told["sources"]) == ("fine", 0, {"fake": "complete"})
    assert told["counts"]["events"] >= 3


def test_keys_may_lie_in_a_file_or_the_environment(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    out = desk.export()
    file = desk.folder / "keys.txt"
    file.write_text(f"# of the desk\n{desk.key}\n")
    assert desk.run("verify", out, "--key", file).exit_code == 0
    monkeypatch.setenv("HOLDFAST_AUDIT_KEYS", desk.key)
    assert desk.run("verify", out).exit_code == 0


def test_the_keys_of_drills_are_printed_with_the_others_and_pinned(desk: Desk) -> None:
    ours, another = (Ed25519PrivateKey.generate() for _ in range(2))
    pem = ours.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (desk.folder / "drills.pem").write_bytes(pem)
    raw = another.public_key().public_bytes_raw().hex()
    add_audit(desk.topology, keys={"drills": ["drills.pem", raw]})
    told = desk.json("keys", "--topology", desk.topology)
    assert told["drills"] == [f"drill:{ours.public_key().public_bytes_raw().hex()}", f"drill:{raw}"]
    file = desk.folder / "keys.txt"
    file.write_text(desk.run("keys", "--topology", desk.topology).stdout)

    write_evidence(sample_journal(), desk.folder / "site-a" / "evidence" / "one", ours)
    out = desk.export()
    assert desk.run("verify", out, "--key", file).exit_code == 0
    done = desk.json("verify", out, "--key", told["keys"][0], "--key", f"drill:{raw}")
    assert [one["code"] for one in done["problems"]] == ["evidence-not-trusted"]
    assert done["exit_code"] == desk.run("coverage", out, "--key", desk.key, "--key", f"drill:{raw}").exit_code == 6
    assert desk.run("verify", out, "--key", desk.key, "--key", "drill:none").exit_code == 2


def test_evidence_of_another_drills_key_is_a_gap_when_it_is_collected(desk: Desk) -> None:
    pinned = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    add_audit(desk.topology, keys={"drills": [pinned]})
    write_evidence(sample_journal(), desk.folder / "site-a" / "evidence" / "one", Ed25519PrivateKey.generate())
    told = desk.json("coverage", desk.export(), "--key", desk.key)
    (found,) = [finding for one in told["sources"]["fake"] for finding in one["findings"]]
    assert (found["code"], found["state"]) == ("evidence-invalid", "gap")
    assert "not trusted for drills" in found["detail"]


def test_each_kind_of_answer_has_its_exit_code(desk: Desk) -> None:
    out, key = desk.export(), desk.key
    assert desk.run("verify", out).exit_code == 7  # nobody vouches for it
    (segment,) = out.glob("segments/fake/*[0-9].parquet")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    done = desk.run("verify", out, "--key", key)
    assert done.exit_code == 5
    assert "segments/fake/000000.parquet" in done.output
    assert desk.run("verify", desk.folder / "nothing", "--key", key).exit_code == 2
    assert desk.run("verify", out, "--key", "no-key").exit_code == 2
    assert desk.run("export", "--topology", desk.topology, "--output", out).exit_code == 2
    assert desk.run("export", "--topology", desk.topology, "--since", "yesterday").exit_code == 2


def test_a_source_that_cannot_be_opened_is_unknown_and_not_empty(desk: Desk) -> None:
    document = yaml.safe_load(desk.topology.read_text())
    document["audit"]["sources"]["airflow"] = {"kind": "airflow", "connection": "missing"}
    desk.topology.write_text(yaml.safe_dump(document))
    out, key = desk.export(), desk.key
    done = desk.run("verify", out, "--key", key)
    assert done.exit_code == 7
    assert "the source cannot be opened" in done.output
    rows = desk.json("coverage", out, "--key", key)["sources"]["airflow"]
    assert [row["state"] for row in rows] == ["unknown"]


def test_the_coverage_is_whole_in_a_narrow_terminal(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out, key = desk.export(), desk.key
    (row,) = desk.json("coverage", out, "--key", key)["sources"]["fake"]
    told = desk.run("coverage", out, "--key", key).output
    window = f"{row['start'][:16]} to {row['end'][:16]}".replace("T", " ")
    (line,) = [one for one in told.splitlines() if window in one]
    assert "complete" in line
    assert len(line) <= 80
    assert "…" not in told


def test_exports_in_a_row_are_one_log_and_a_missing_one_shows(desk: Desk) -> None:
    key = desk.key
    for number in range(3):
        desk.export(f"exports/{number}")
    told = desk.json("verify", desk.folder / "exports", "--key", key)
    assert told["verdict"] == "fine"
    assert len(told["exports"]) == 3
    answer = desk.run("verify", desk.folder / "exports" / "0", desk.folder / "exports" / "2", "--key", key)
    assert answer.exit_code == 6
    remembered = desk.folder / "exports" / "2" / "checkpoint"
    answer = desk.run("verify", desk.folder / "exports" / "1", "--key", key, "--remembered", remembered)
    assert answer.exit_code == 5


def test_one_event_is_proven_and_checked_alone(desk: Desk) -> None:
    out, key, proof = desk.export(), desk.key, desk.folder / "proof"
    done = desk.json("prove", "leaf:0", "--export", out, "--output", proof, "--key", key)
    assert done["leaf"] == 0
    assert desk.run("check-proof", proof, "--key", key).exit_code == 0
    assert desk.run("check-proof", proof).exit_code == 7
    raw = proof / "event.raw"
    raw.write_bytes(raw.read_bytes() + b" ")
    assert desk.run("check-proof", proof, "--key", key).exit_code == 5
    assert desk.run("prove", "nobody", "--export", out, "--output", desk.folder / "p2", "--key", key).exit_code == 2


def test_a_document_is_sealed_beside_the_events(desk: Desk) -> None:
    finding = desk.folder / "posture.jsonl"
    finding.write_text('{"class_uid": 2003}\n')
    out = desk.folder / "out"
    desk.run("export", "--topology", desk.topology, "--output", out, "--document", finding)
    assert (out / "attached" / "posture.jsonl").read_text() == finding.read_text()
    (out / "attached" / "posture.jsonl").write_text("{}")
    assert desk.run("verify", out, "--key", desk.key).exit_code == 5


def test_without_an_audit_section_it_says_what_to_do(desk: Desk) -> None:
    document = yaml.safe_load(desk.topology.read_text())
    del document["audit"]
    desk.topology.write_text(yaml.safe_dump(document))
    done = desk.run("export", "--topology", desk.topology)
    assert done.exit_code == 2
    assert "a section `audit`" in done.output
