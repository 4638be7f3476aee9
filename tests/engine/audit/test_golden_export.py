"""Exports that an earlier version sealed verify with this one."""

from __future__ import annotations

from pathlib import Path

from holdfast.engine.audit.chain import exports_below, verify_exports
from holdfast.engine.audit.tlog.keys import VerifierKey

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "audit-export"


def test_the_first_format_verifies() -> None:
    key = VerifierKey.parse((GOLDEN / "keys.txt").read_text().strip())
    answer, each = verify_exports(exports_below(GOLDEN), trusted=[key])
    assert answer.problems == []
    assert (answer.origin, answer.seal, answer.counts["events"]) == ("example.com/desk", 1, 20)
    assert [one.answer.sources for one in each] == [{"fake": "late"}, {"fake": "complete"}]
