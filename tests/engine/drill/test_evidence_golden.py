"""Evidence signed by an earlier version verifies today, and today's code signs the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.engine.drill import dsse
from holdfast.engine.drill.evidence import PAYLOAD_TYPE, verify_evidence
from holdfast.engine.snapshot.documents import canonical

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "evidence"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def test_earlier_evidence_verifies():
    found = verify_evidence(GOLDEN, public_key=KEY.public_key())
    assert found.pinned
    assert found.drill_id == "20260301T120000Z-abc123"


def test_the_same_statement_is_signed_to_the_same_bytes():
    data = (GOLDEN / "evidence.dsse.json").read_bytes()
    payload = dsse.parse(data, where="golden").payload
    assert canonical(json.loads(payload)) == payload
    assert dsse.sign(payload, PAYLOAD_TYPE, KEY) == data


def test_the_journal_is_canonical():
    data = (GOLDEN / "journal.json").read_bytes()
    assert canonical(json.loads(data)) == data
