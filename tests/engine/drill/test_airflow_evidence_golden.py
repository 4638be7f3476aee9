"""Evidence of a drill of Airflow signed by an earlier version verifies today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.engine.drill.airflow_journal import AirflowDrillJournal
from holdfast.engine.drill.evidence import EvidenceInvalid, verify_evidence, write_evidence
from holdfast.engine.snapshot.documents import canonical

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "airflow-drill"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def test_earlier_evidence_verifies_and_is_judged_the_same() -> None:
    found = verify_evidence(GOLDEN, public_key=KEY.public_key())
    assert (found.pinned, found.status, found.verdict) == (True, "completed", "pass")
    assert found.journal_format == "holdfast.airflow-drill/1"


def test_an_earlier_journal_is_read_and_written_the_same() -> None:
    data = (GOLDEN / "journal.json").read_bytes()
    assert canonical(AirflowDrillJournal.read(json.loads(data)).as_document()) == data


@pytest.mark.parametrize("holds", [False, None])
def test_a_pass_that_a_claim_does_not_bear_out_is_refused_with_a_good_signature(tmp_path: Path, holds: object) -> None:
    journal = json.loads((GOLDEN / "journal.json").read_bytes())
    journal["claims"][-1]["holds"] = holds
    write_evidence(journal, tmp_path, KEY)
    with pytest.raises(EvidenceInvalid, match="does not bear its verdict out"):
        verify_evidence(tmp_path, public_key=KEY.public_key())
