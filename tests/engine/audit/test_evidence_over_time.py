"""How old evidence may be, and what several exports of one ledger say together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from audit_world import HOUR, START, AuditWorld, FakeSource, event
from holdfast.cli.main import app
from holdfast.clock import FakeClock
from holdfast.engine.audit.chain import verify_exports
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.evidence.controls import maximum_ages
from holdfast.engine.audit.evidence.exports import Exports
from holdfast.engine.audit.evidence.gather import gather
from holdfast.engine.audit.evidence.index import Answer, as_json, judge, write_index
from holdfast.engine.audit.evidence.observations import Observation, Shown
from holdfast.engine.audit.evidence.oscal import write_oscal
from holdfast.engine.audit.interface import Document
from holdfast.engine.audit.posture import Status, as_ocsf
from holdfast.engine.audit.posture.checks import CHECKS
from holdfast.engine.audit.posture.interface import Resource, Result
from holdfast.engine.audit.privacy.certificates import Certificate, signed
from holdfast.engine.audit.signing import cosigners
from holdfast.engine.audit.verify import verify_export
from sample_journal import sample_journal

DAY = timedelta(days=1)
NOW = START + 3 * HOUR


def posture(at: datetime, status: Status = Status.PASS, name: str = "posture") -> Document:
    """A run of all checks at a moment."""
    found = [Result(check, "a", Resource("aws", "bucket", "arn:x"), status, "good", "what it is") for check in CHECKS]
    lines = "\n".join(json.dumps(as_ocsf(one, at)) for one in found)
    return Document(f"findings/{name}-{at:%Y%m%dT%H%M%S.%fZ}.jsonl", "application/x-ndjson", lines.encode())


def residency(at: datetime, verdict: str = "lawful") -> Document:
    row = {"made_at": at.isoformat(), "verdict": verdict, "counts": {verdict: 1}, "copies": [{}]}
    name = f"findings/residency-{at:%Y%m%dT%H%M%S.%fZ}.json"
    return Document(name, "application/json", json.dumps(row).encode())


def drill(folder: Path, name: str, **changes: Any) -> list[Document]:
    from holdfast.engine.drill.evidence import write_evidence

    paths = write_evidence({**sample_journal(), **changes}, folder / name, Ed25519PrivateKey.generate())
    return [Document(f"evidence/{name}/{one.name}", "application/json", one.read_bytes()) for one in paths.all()]


class Ledger:
    """Exports of one ledger, one after the other."""

    def __init__(self, folder: Path) -> None:
        hours = [[[event(n)]] for n in range(24 * 40)]
        self.world = AuditWorld(folder, FakeSource(hours, kind="airflow"))
        self.folders: list[Path] = []

    def export(self, *documents: Document, at: datetime = NOW) -> Path:
        self.world.clock = FakeClock(at)
        done = self.world.export(until=at, documents=documents)
        assert done.folder is not None
        self.folders.append(done.folder)
        return done.folder

    def exports(self, folders: Iterable[Path] | None = None) -> Exports:
        return Exports.together(*verify_exports(list(folders or self.folders), trusted=[self.world.key]))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def of(exports: Exports) -> dict[str, Answer]:
    return {one.control.id: one for one in judge(gather(exports))}


def seen(exports: Exports, look: str) -> list[Observation]:
    return [one for one in gather(exports) if one.look == look]


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (timedelta(0), Shown.SHOWN),
        (maximum_ages()["posture"], Shown.SHOWN),
        (maximum_ages()["posture"] + timedelta(seconds=1), Shown.UNKNOWN),
        (NOW - datetime.fromisoformat("1970-01-02T00:00:00+00:00"), Shown.UNKNOWN),
        (timedelta(hours=-1), Shown.UNKNOWN),  # from the future
    ],
)
def test_findings_that_are_too_old_show_nothing(ledger: Ledger, age: timedelta, expected: Shown) -> None:
    ledger.export(posture(NOW - age), residency(NOW - age))
    found = of(ledger.exports())
    assert found["iso27001-a5-28"].shown is expected
    (report,) = seen(ledger.exports(), "residency")
    assert (report.shown, report.at) == (expected, NOW - age)
    assert ("stale" in report.what) is (expected is Shown.UNKNOWN)


def test_a_failed_check_that_is_old_is_not_forgotten(ledger: Ledger) -> None:
    ledger.export(posture(NOW - 30 * DAY, Status.FAIL))
    assert of(ledger.exports())["iso27001-a5-28"].shown is Shown.CONTRARY


def test_within_the_export_s_window_nothing_is_too_old(ledger: Ledger) -> None:
    end = START + 20 * DAY
    ledger.export(posture(START + DAY), at=end)
    assert of(ledger.exports())["iso27001-a5-28"].shown is Shown.SHOWN


def test_of_several_looks_the_newest_counts_and_a_failure_in_the_window_stays(ledger: Ledger) -> None:
    before, end = START - DAY, START + DAY
    ledger.export(posture(before, Status.FAIL), posture(START + HOUR, Status.UNKNOWN), posture(end), at=end)
    (one, *_) = seen(ledger.exports(), "posture")
    assert one.shown is Shown.SHOWN  # the failure was before anything of this export
    assert "looked at 3 times" in one.what
    later = end + HOUR
    ledger.export(posture(later - HOUR / 2, Status.FAIL), posture(later), at=later)
    (one, *_) = seen(ledger.exports(), "posture")
    assert one.shown is Shown.CONTRARY
    assert len(one.files) == 2


def test_a_drill_and_findings_may_be_in_different_exports(ledger: Ledger, tmp_path: Path) -> None:
    ledger.export(*drill(tmp_path, "one"), at=NOW)
    ledger.export(posture(NOW + HOUR), residency(NOW + HOUR), at=NOW + HOUR)
    ledger.export(at=NOW + 2 * HOUR)
    together = ledger.exports()
    assert of(together)["soc2-a1"].shown is Shown.SHOWN
    for folder in ledger.folders:
        assert of(ledger.exports([folder]))["soc2-a1"].shown is Shown.UNKNOWN
    # The topology lies in all three, and is named once.
    assert [one.subject for one in seen(together, "documents")].count("topology/holdfast.yaml") == 1
    row = as_json(together, judge(gather(together)))
    assert (row["seal"], row["seals"], row["verdict"]) == (2, [0, 1, 2], "fine")
    files = {
        file["path"]: file["sha256"]
        for control in row["controls"]
        for evidence in control["evidence"]
        for one in evidence["observations"]
        for file in one["files"]
    }
    for path, digest in files.items():
        assert hashlib.sha256((tmp_path / path).read_bytes()).hexdigest() == digest
    write_oscal(together, tmp_path / "results.json")
    from trestle.oscal.assessment_results import AssessmentResults

    read = AssessmentResults.oscal_read(tmp_path / "results.json")
    assert read is not None
    (result,) = read.results
    assert len({one.uuid for one in result.observations}) == len(result.observations)
    assert {one.collected for one in result.observations if one.title.startswith("posture")} == {NOW + HOUR}


def test_an_old_drill_shows_nothing_and_does_not_spoil_a_new_one(ledger: Ledger, tmp_path: Path) -> None:
    old = drill(tmp_path, "old", ended_at="2025-03-01T12:00:00+00:00")
    ledger.export(*old, at=NOW)
    (found,) = seen(ledger.exports(), "drills")
    assert (found.shown, "stale" in found.what) == (Shown.NOT_APPLICABLE, True)
    assert of(ledger.exports())["iso27001-a5-29-30"].shown is Shown.UNKNOWN
    ledger.export(*drill(tmp_path, "new"), at=NOW + HOUR)
    assert of(ledger.exports())["iso27001-a5-29-30"].shown is Shown.SHOWN


def test_an_export_that_is_missing_in_between_is_not_complete(ledger: Ledger) -> None:
    for hours in range(3):
        ledger.export(at=NOW + hours * HOUR)
    assert of(ledger.exports())["gdpr-33"].found[0][1][0].shown is Shown.SHOWN
    first, _, last = ledger.folders
    (coverage,) = seen(ledger.exports([first, last]), "coverage")
    assert coverage.shown is Shown.UNKNOWN
    assert "export-missing" in coverage.what


def test_one_export_that_was_changed_spoils_all(ledger: Ledger, tmp_path: Path) -> None:
    ledger.export(residency(NOW), at=NOW)
    ledger.export(at=NOW + HOUR)
    next((ledger.folders[0] / "findings").iterdir()).write_bytes(b"{}")
    with pytest.raises(Tampered, match="nothing of it is evidence"):
        ledger.exports()
    done = CliRunner().invoke(app, ["audit", "index", *map(str, ledger.folders), "--output", str(tmp_path / "index")])
    assert (done.exit_code, (tmp_path / "index").exists()) == (5, False)


def test_the_commands_take_several_exports(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.export(at=NOW)
    ledger.export(residency(NOW + HOUR), at=NOW + HOUR)
    key = str(ledger.world.key)
    words = [*map(str, ledger.folders), "--key", key, "--json"]
    done = CliRunner().invoke(app, ["audit", "index", *words, "--output", str(tmp_path / "index")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["seals"] == [0, 1]
    assert "newest of 2 exports" in (tmp_path / "index" / "index.md").read_text()
    # The same twice is the same once, however it is named.
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        app, ["audit", "oscal", *words, ledger.folders[0].name, "--output", str(tmp_path / "results.json")]
    )
    assert done.exit_code == 0, done.output


def test_a_certificate_of_erasure_is_found(ledger: Ledger) -> None:
    ledger.export()
    assert of(ledger.exports())["gdpr-17"].shown is Shown.UNKNOWN
    removed = Certificate(
        origin="example.com/desk",
        next_seal=1,
        keys=("ab" * 16,),
        sites={"site-b": 1},
        shredded_at=NOW,
        shredded_by="host/1",
        reason="request 17",
    )
    note = signed(removed, cosigners(ledger.world.runtime()))
    ledger.export(Document(f"privacy/{removed.name}", "text/plain", note), at=NOW + HOUR)
    found = of(ledger.exports())["gdpr-17"]
    assert (found.shown, len(found.found[0][1])) == (Shown.PARTLY, 1)
    assert "A certificate of erasure" not in found.control.missing


@pytest.mark.parametrize("command", ["index", "oscal"])
@pytest.mark.parametrize("below", ["file/out", "file", "/proc/holdfast/out"])
def test_an_output_that_cannot_be_is_one_error(ledger: Ledger, tmp_path: Path, command: str, below: str) -> None:
    folder = ledger.export()
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["audit", command, str(folder), "--output", str(tmp_path / below)])
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("holdfast: ")
    assert str(tmp_path / below) in done.stderr
    with pytest.raises(Exception, match=r"cannot be written|already"):
        (write_index if command == "index" else write_oscal)(Exports.of(verify_export(folder)), tmp_path / below)
