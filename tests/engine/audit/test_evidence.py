"""What of an export speaks to a control: unknown is never satisfied, and nothing claims compliance."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from audit_world import AuditWorld, FakeSource, event
from holdfast.cli.main import app
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.evidence.controls import Control, Evidence, controls
from holdfast.engine.audit.evidence.gather import gather
from holdfast.engine.audit.evidence.index import Answer, judge, write_index
from holdfast.engine.audit.evidence.observations import Observation, Shown, worst_of
from holdfast.engine.audit.evidence.oscal import write_oscal
from holdfast.engine.audit.interface import Document, Finding, State
from holdfast.engine.audit.posture import Status, as_ocsf
from holdfast.engine.audit.posture.checks import BY_ID, CHECKS
from holdfast.engine.audit.posture.interface import Resource, Result
from holdfast.engine.audit.verify import Verified, verify_export
from holdfast.engine.drill.dsse import key_id_of
from holdfast.errors import ConfigError
from sample_journal import sample_journal

KIND = "airflow"


def posture(*, asked_at: str | None = None, without: str = "", **statuses: Status) -> Document:
    """All checks pass, but for those that are named; one may not be there."""
    from audit_world import START

    lines = []
    for check in CHECKS:
        if check.check_id == without:
            continue
        status = statuses.get(check.check_id.replace("-", "_"), Status.PASS)
        one = Result(check, "a", Resource("aws", "bucket", "arn:x"), status, "good", "what it is", asked_at=asked_at)
        lines.append(json.dumps(as_ocsf(one, START)))
    return Document("findings/posture.jsonl", "application/x-ndjson", "\n".join(lines).encode())


def residency(verdict: str = "lawful", copies: int = 1) -> Document:
    row = {
        "made_at": "2026-11-29T12:00:00+00:00",
        "verdict": verdict,
        "counts": {verdict: copies},
        "copies": [{}] * copies,
    }
    return Document("findings/residency.json", "application/json", json.dumps(row).encode())


def drill(folder: Path, key: Ed25519PrivateKey | None = None, **changes: Any) -> list[Document]:
    from holdfast.engine.drill.evidence import write_evidence

    paths = write_evidence({**sample_journal(), **changes}, folder, key or Ed25519PrivateKey.generate())
    return [Document(f"evidence/one/{one.name}", "application/json", one.read_bytes()) for one in paths.all()]


def export(tmp_path: Path, *documents: Document, findings: dict[int, tuple[Finding, ...]] | None = None) -> Verified:
    (tmp_path / "world").mkdir(parents=True)
    world = AuditWorld(
        tmp_path / "world", FakeSource([[[event(n)]] for n in range(3)], kind=KIND, findings=findings or {})
    )
    folder = world.export(documents=documents).folder
    assert folder is not None
    return verify_export(folder, trusted=[world.key])


def of(verified: Verified) -> dict[str, Answer]:
    return {one.control.id: one for one in judge(gather(verified))}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Verified:
    folder = tmp_path_factory.mktemp("good")
    return export(folder, posture(), residency(), *drill(folder / "drill"))


def test_the_controls_the_issue_names_are_there_and_name_real_checks() -> None:
    ids = {one.id for one in controls()}
    assert {"dora-11-12", "dora-17-19", "dora-28", "gdpr-17", "gdpr-30", "gdpr-32", "gdpr-33"} <= ids
    assert {"glba-314-4", "sec-204-2-g", "sec-17a-4-f", "fca-sysc-9", "ai-act-12", "ai-act-19"} <= ids
    assert {"soc2-cc6", "soc2-cc7", "soc2-cc8", "soc2-a1", "iso27001-a5-28", "iso27001-a8-13"} <= ids
    for control in controls():
        for evidence in control.evidence:
            assert set(evidence.checks) <= set(BY_ID)
            assert not (evidence.checks and evidence.look != "posture")


def test_what_is_there_and_good_is_shown(good: Verified) -> None:
    found = of(good)
    for name in ("soc2-cc7", "soc2-a1", "iso27001-a5-28", "iso27001-a8-13", "gdpr-32"):
        assert found[name].shown is Shown.SHOWN, name
    assert found["dora-11-12"].shown is Shown.PARTLY
    assert found["gdpr-17"].shown is Shown.UNKNOWN
    assert found["fca-sysc-9"].shown is Shown.CONTRARY  # nothing is locked in this world


def test_without_documents_nothing_is_shown_that_needs_them(tmp_path: Path) -> None:
    found = of(export(tmp_path))
    assert {name for name, one in found.items() if one.shown is Shown.SHOWN} == set()
    assert found["soc2-a1"].shown is Shown.UNKNOWN


def test_without_a_trusted_key_nothing_is_shown(good: Verified) -> None:
    found = of(verify_export(Path(good.answer.where)))
    assert all(one.shown is not Shown.SHOWN for one in found.values())


@pytest.mark.parametrize(
    ("documents", "control", "expected"),
    [
        ([posture(mfa=Status.FAIL)], "soc2-cc6", Shown.CONTRARY),
        ([posture(mfa=Status.UNKNOWN)], "soc2-cc6", Shown.UNKNOWN),
        ([posture(key_rotation=Status.NOT_APPLICABLE)], "soc2-cc6", Shown.PARTLY),
        ([posture(without="mfa")], "soc2-cc6", Shown.UNKNOWN),
        ([posture()], "soc2-cc6", Shown.PARTLY),
        ([Document("lineage/a.jsonl", "text/plain", b"a")], "ai-act-12", Shown.PARTLY),
        ([], "ai-act-12", Shown.UNKNOWN),
        ([posture(asked_at="http://127.0.0.1:1")], "soc2-cc6", Shown.UNKNOWN),
        ([Document("findings/posture.jsonl", "text/plain", b"{}\n")], "soc2-cc6", Shown.UNKNOWN),
        ([Document("findings/posture.jsonl", "text/plain", b"")], "soc2-cc6", Shown.UNKNOWN),
        ([residency("breach")], "gdpr-30", Shown.CONTRARY),
        ([residency("lawful", copies=0)], "gdpr-30", Shown.UNKNOWN),
        ([Document("findings/residency.json", "text/plain", b'{"verdict": "lawful"}')], "gdpr-30", Shown.UNKNOWN),
    ],
)
def test_what_findings_mean(tmp_path: Path, documents: list[Document], control: str, expected: Shown) -> None:
    assert of(export(tmp_path, *documents))[control].shown is expected


@pytest.mark.parametrize(("kind", "shows"), [("holdfast", True), ("kubernetes", False)])
def test_lineage_is_what_the_source_of_our_own_records_says(tmp_path: Path, kind: str, shows: bool) -> None:
    document = Document("lineage/prices/20261129T120000.000000Z.jsonl", "application/x-ndjson", b"{}\n")
    world = AuditWorld(tmp_path, FakeSource([[[event(1)]]], kind=kind, extra={0: (document,)}))
    folder = world.export().folder
    assert folder is not None
    control = of(verify_export(folder, trusted=[world.key]))["ai-act-12"]
    lineage = [one for wanted, found in control.found for one in found if "lineage/" in wanted.paths]
    assert [one.shown for one in lineage] == [Shown.SHOWN] * shows


@pytest.mark.parametrize(
    ("state", "expected"), [(State.GAP, Shown.CONTRARY), (State.UNKNOWN, Shown.UNKNOWN), (State.LATE, Shown.UNKNOWN)]
)
def test_what_coverage_means(tmp_path: Path, state: State, expected: Shown) -> None:
    verified = export(tmp_path, findings={1: (Finding("x", "why", state=state),)})
    assert of(verified)["gdpr-33"].shown is expected


def test_drills_speak_by_their_evidence(tmp_path: Path) -> None:
    documents = drill(tmp_path / "drill", deviated=True)
    assert of(export(tmp_path / "a", *documents))["soc2-a1"].found[0][1][0].shown is Shown.CONTRARY
    spoiled = [
        Document(one.name, one.media_type, one.data.replace(b'"deviated":true', b'"deviated":false'))
        for one in documents
    ]
    # Whoever sealed a forged journal is found out by the drill's own signature.
    assert verify_of(tmp_path / "b", spoiled) == "tampered"


def verify_of(folder: Path, documents: list[Document]) -> str:
    return export(folder, *documents).answer.verdict


def test_nothing_of_an_export_that_was_changed_is_evidence(good: Verified, tmp_path: Path) -> None:
    shutil.copytree(good.answer.where, tmp_path / "export")
    (tmp_path / "export" / "findings" / "residency.json").write_bytes(b"{}")
    changed = verify_export(tmp_path / "export")
    with pytest.raises(Tampered, match="nothing of it is evidence"):
        write_index(changed, tmp_path / "index")
    with pytest.raises(Tampered):
        write_oscal(changed, tmp_path / "oscal.json")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["export"]


def test_of_nothing_it_is_unknown() -> None:
    assert worst_of([]) is Shown.UNKNOWN
    assert worst_of([Shown.NOT_APPLICABLE]) is Shown.UNKNOWN
    assert worst_of([Shown.NOT_APPLICABLE, Shown.SHOWN]) is Shown.SHOWN
    assert worst_of([Shown.SHOWN, Shown.UNKNOWN, Shown.CONTRARY]) is Shown.CONTRARY


def test_the_index_names_documents_by_path_and_digest(good: Verified, tmp_path: Path) -> None:
    write_index(good, tmp_path / "index")
    row = json.loads((tmp_path / "index" / "index.json").read_text())
    assert "No compliance is claimed" in row["note"]
    assert good.manifest is not None
    known = {file.path: file.sha256 for file in good.manifest.files()}
    files = [
        file
        for control in row["controls"]
        for evidence in control["evidence"]
        for observation in evidence["observations"]
        for file in observation["files"]
        if file["path"] not in ("manifest.json", "checkpoint")
    ]
    assert files
    assert all(known[file["path"]] == file["sha256"] for file in files)
    text = (tmp_path / "index" / "index.md").read_text()
    assert "No compliance is claimed" in text
    assert "no export holds it" in text
    with pytest.raises(ConfigError, match="something here already"):
        write_index(good, tmp_path / "index")


def test_a_text_of_anybody_s_is_no_markdown() -> None:
    from holdfast.engine.audit.evidence.index import _plain

    assert _plain("a\n# <b>[x](y)`|\x1b[31m") == "a \\# \\<b\\>\\[x\\](y)\\`\\|\\[31m"


# -- OSCAL ----------------------------------------------------------------------------------------------------------


def test_oscal_is_what_trestle_reads_and_unknown_is_not_satisfied(good: Verified, tmp_path: Path) -> None:
    from trestle.oscal.assessment_results import AssessmentResults

    answers = write_oscal(good, tmp_path / "results.json")
    read = AssessmentResults.oscal_read(tmp_path / "results.json")
    assert read is not None
    (result,) = read.results
    resources = {one.uuid: one for one in read.back_matter.resources}
    observations = {one.uuid: one for one in result.observations}
    assert read.import_ap.href.removeprefix("#") in resources
    for one in observations.values():
        for evidence in one.relevant_evidence or ():
            assert evidence.href.removeprefix("#") in resources
    assert good.manifest is not None
    known = {file.path: file.sha256 for file in good.manifest.files()}
    for one in resources.values():
        (link,) = one.rlinks
        assert known.get(link.href, link.hashes[0].value) == link.hashes[0].value
    states = {}
    for finding in result.findings:
        states[finding.target.target_id.removesuffix(".evidence")] = finding.target.status.state.value
        assert "No compliance is claimed" in finding.remarks
        for related in finding.related_observations or ():
            assert related.observation_uuid in observations
    assert states == {one.control.id: "satisfied" if one.shown is Shown.SHOWN else "not-satisfied" for one in answers}
    assert set(states.values()) == {"satisfied", "not-satisfied"}


def test_the_same_export_gives_the_same_results(good: Verified, tmp_path: Path) -> None:
    write_oscal(good, tmp_path / "one.json")
    write_oscal(good, tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    with pytest.raises(ConfigError, match="such a file already"):
        write_oscal(good, tmp_path / "one.json")


def test_an_empty_export_still_is_oscal(tmp_path: Path) -> None:
    from trestle.oscal.assessment_results import AssessmentResults

    write_oscal(export(tmp_path), tmp_path / "results.json")
    assert AssessmentResults.oscal_read(tmp_path / "results.json") is not None


def test_without_trestle_it_says_what_to_install(
    good: Verified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.engine.audit.evidence.oscal.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"holdfast\[oscal\]"):
        write_oscal(good, tmp_path / "results.json")


def test_trestle_is_imported_by_nothing_else() -> None:
    import subprocess

    code = "import sys, holdfast.cli.audit, holdfast.engine.audit.evidence.index; sys.exit('trestle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_narrowed_evidence_is_narrowed() -> None:
    one = Observation("posture", "a", Shown.SHOWN, "", (), "mfa")
    assert one.speaks_to(Evidence(look="posture", says=""))
    assert one.speaks_to(Evidence(look="posture", says="", checks=("mfa",)))
    assert not one.speaks_to(Evidence(look="posture", says="", checks=("tls-only",)))
    assert not one.speaks_to(Evidence(look="coverage", says=""))
    assert isinstance(controls()[0], Control)


def test_the_commands(good: Verified, tmp_path: Path) -> None:
    where = good.answer.where
    done = CliRunner().invoke(app, ["audit", "index", where, "--output", str(tmp_path / "index"), "--json"])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["controls"]) == len(controls())
    done = CliRunner().invoke(app, ["audit", "oscal", where, "--output", str(tmp_path / "results.json")])
    assert done.exit_code == 0, done.output
    assert "No compliance is claimed" in done.output
    assert CliRunner().invoke(app, ["audit", "oscal", str(tmp_path), "--output", "x.json"]).exit_code == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Shown.SHOWN),
        ({"status": "aborted"}, Shown.UNKNOWN),
        ({"verdict": {"rto_met": False, "passed": True}}, Shown.CONTRARY),
        ({"verdict": {"rto_met": True, "passed": True}}, Shown.UNKNOWN),
        ({"verdict": None}, Shown.UNKNOWN),
    ],
)
def test_a_drill_s_claims_are_judged_anew(tmp_path: Path, changes: dict[str, Any], expected: Shown) -> None:
    from holdfast.engine.audit.evidence.gather import _drills
    from holdfast.engine.audit.manifest import DocumentRef, File

    documents = drill(tmp_path / "evidence" / "one", **changes)
    refs = [
        DocumentRef(file=File(path=one.name, sha256=one.sha256, size_bytes=1), leaf=0, media_type="x")
        for one in documents
    ]
    by_path = {one.file.path: one for one in refs}
    manifest: Any = SimpleNamespace(documents=refs, document=by_path.get)
    (found,) = _drills(manifest, tmp_path, ())
    assert found.shown is expected
    assert len(found.files) == 3


def test_evidence_that_a_source_sealed_is_verified_offline_too(tmp_path: Path) -> None:
    journal, report, envelope = drill(tmp_path / "drill")
    changed = Document(report.name, report.media_type, report.data + b" ")
    for documents, code in (((journal, report, envelope), 0), ((journal, changed, envelope), 6)):
        (tmp_path / str(code)).mkdir()
        world = AuditWorld(tmp_path / str(code), FakeSource([[[event(1)]]], extra={0: documents}))
        folder = world.export().folder
        assert folder is not None
        assert verify_export(folder, trusted=[world.key]).answer.exit_code == code


def test_the_key_of_the_drills_is_pinned(tmp_path: Path) -> None:
    ours, another = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    keys = {key_id_of(key.public_key()) for key in (ours, Ed25519PrivateKey.generate())}
    for signed_by, own, of_source, shown in ((ours, 0, 0, Shown.SHOWN), (another, 5, 6, None)):
        documents = drill(tmp_path / "drill", signed_by)
        (tmp_path / str(own)).mkdir()
        (tmp_path / f"{own}-source").mkdir()
        world = AuditWorld(tmp_path / str(own), FakeSource([[[event(1)]]]))
        folder = world.export(documents=documents).folder
        assert folder is not None
        verified = verify_export(folder, trusted=[world.key], drill_keys=keys)
        assert verified.answer.exit_code == own
        assert verified.answer.notes == []
        if shown:
            (told,) = [one for one in gather(verified) if one.look == "drills"]
            assert (told.shown, "which is trusted for drills" in told.what) == (shown, True)
        else:
            (problem,) = verified.answer.problems
            assert (problem.code, problem.found) == ("evidence-not-trusted", key_id_of(another.public_key()))

        world = AuditWorld(tmp_path / f"{own}-source", FakeSource([[[event(1)]]], extra={0: tuple(documents)}))
        folder = world.export().folder
        assert folder is not None
        verified = verify_export(folder, trusted=[world.key], drill_keys=keys)
        assert verified.answer.exit_code == of_source
        (told,) = [one for one in gather(verified) if one.look == "drills"]
        assert told.shown is (shown or Shown.CONTRARY)

        unpinned = verify_export(folder, trusted=[world.key]).answer
        assert (unpinned.exit_code, len(unpinned.notes)) == (0, 1)
        assert key_id_of(signed_by.public_key()) in unpinned.notes[0]
