"""A drill's evidence in an export: what does not hold of it is told, whatever it says."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_world import AuditWorld, FakeSource
from holdfast.engine.audit.interface import Document
from holdfast.engine.drill import dsse
from holdfast.engine.drill.evidence import ENVELOPE, FORMAT, JOURNAL, PAYLOAD_TYPE, REPORT

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def self_signed(journal: object) -> tuple[Document, ...]:
    files = {JOURNAL: json.dumps(journal).encode(), REPORT: b"<html>"}
    statement = {
        "format": FORMAT,
        "drill_id": "x",
        "files": [
            {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
            for name, data in files.items()
        ],
        "signer": {
            "algorithm": "Ed25519",
            "public_key": base64.b64encode(KEY.public_key().public_bytes_raw()).decode(),
        },
    }
    files[ENVELOPE] = dsse.sign(json.dumps(statement).encode(), PAYLOAD_TYPE, KEY)
    return tuple(Document(f"evidence/x/{name}", "application/json", data) for name, data in files.items())


def test_a_journal_whose_format_is_a_list_is_a_gap_for_years_and_no_crash(tmp_path: Path) -> None:
    source = FakeSource([[], [], []], extra={0: self_signed({"drill_id": "x", "format": []})})
    world = AuditWorld(tmp_path, source)
    done = world.export()
    assert done.folder is not None
    answer = world.verify(done.folder)
    assert answer.exit_code == 6
    assert [problem.code for problem in answer.problems] == ["evidence-invalid"]
