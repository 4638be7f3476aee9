"""Evidence of a restore drill signed by an earlier version verifies today."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.engine.drill.evidence import verify_evidence
from holdfast.engine.drill.restore_journal import Claim, RestoreDrillJournal, verdict_of
from holdfast.engine.snapshot.documents import canonical

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "restore-drill"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def test_earlier_evidence_verifies_and_is_judged_the_same() -> None:
    found = verify_evidence(GOLDEN, public_key=KEY.public_key())
    assert (found.pinned, found.status, found.verdict) == (True, "completed", "pass")
    assert found.journal_format == "holdfast.restore-drill/1"


def test_an_earlier_journal_is_read_and_written_the_same() -> None:
    data = (GOLDEN / "journal.json").read_bytes()
    assert canonical(RestoreDrillJournal.read(json.loads(data)).as_document()) == data


def claim(holds: bool | None) -> Claim:
    return Claim(name="n", title="t", objective="o", measured="m", holds=holds)


def test_a_verdict_is_a_pass_only_of_a_whole_drill_of_which_everything_is_known_to_hold() -> None:
    yes, no, unknown = claim(True), claim(False), claim(None)
    assert verdict_of("completed", [yes, yes]) == "pass"
    for claims in ([], [yes, unknown], [yes, no], [unknown]):
        assert verdict_of("completed", claims) == "fail"
    for status in ("aborted", "interrupted"):
        assert verdict_of(status, [yes, unknown]) == "aborted"  # type: ignore[arg-type]
        assert verdict_of(status, [yes, no]) == "fail"  # type: ignore[arg-type]
    assert verdict_of("failed", [yes]) == "fail"
