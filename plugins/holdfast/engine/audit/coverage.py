"""Coverage manifests: per source and interval whether all events are there, and by what proof; as documents."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.interface import WORST_FIRST, Coverage, Finding, Interval, State
from holdfast.engine.snapshot.documents import canonical, in_utc, iso_utc

FORMAT = "holdfast.coverage/1"


@dataclass(frozen=True)
class CoverageManifest:
    """What is known of one source's intervals in one seal.

    Args:
        source: its name in the topology.
        kind: of source.
        intervals: in order.
    """

    source: str
    kind: str
    intervals: tuple[Coverage, ...]

    @property
    def state(self) -> State:
        """The worst of all intervals; unknown when there is none."""
        return worst(one.state for one in self.intervals)

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical(
            {
                "format": FORMAT,
                "source": self.source,
                "kind": self.kind,
                "state": str(self.state),
                "intervals": [coverage_as_dict(one) for one in self.intervals],
            }
        )


def worst(states: Iterable[State]) -> State:
    """The state of a whole; of nothing it is unknown."""
    found = set(states)
    return next((state for state in WORST_FIRST if state in found), State.UNKNOWN)


def coverage_as_dict(one: Coverage) -> dict[str, Any]:
    """One interval, JSON-able."""
    return {
        "start": iso_utc(one.interval.start),
        "end": iso_utc(one.interval.end),
        "state": str(one.state),
        "proof": one.proof,
        "expected": one.expected,
        "observed": one.observed,
        "objects": one.objects,
        "records": one.records,
        "findings": [
            {"code": found.code, "detail": found.detail, "where": found.where, "state": str(found.state)}
            for found in one.findings
        ],
    }


def coverage_from_dict(row: dict[str, Any]) -> Coverage:
    """The inverse of `coverage_as_dict`. Raises ValueError: it says a better state than its findings do."""
    coverage = Coverage(
        interval=Interval(_moment(row["start"]), _moment(row["end"])),
        proof=_text(row["proof"]),
        expected=None if row["expected"] is None else _count(row["expected"]),
        observed=_count(row["observed"]),
        objects=_count(row["objects"]),
        records=_count(row["records"]),
        findings=tuple(
            Finding(_text(found["code"]), _text(found["detail"]), _text(found["where"]), State(found["state"]))
            for found in row["findings"]
        ),
    )
    if row["state"] != coverage.state:
        raise ValueError(f"expected state {coverage.state} by its findings; found {row['state']}")
    return coverage


def _moment(text: str) -> datetime:
    return in_utc(datetime.fromisoformat(text))


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a whole number from 0 on; found {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text; found {value!r}")
    return value


def parse_coverage(data: bytes, where: str) -> CoverageManifest:
    """A coverage manifest from its bytes.

    Raises:
        Tampered: it is none, or claims another state than its findings bear out.
    """
    try:
        row = json.loads(data)
        if row["format"] != FORMAT:
            raise ValueError(f"expected {FORMAT}; found {row['format']}")
        manifest = CoverageManifest(
            _text(row["source"]), _text(row["kind"]), tuple(coverage_from_dict(one) for one in row["intervals"])
        )
        if row["state"] != manifest.state:
            raise ValueError(f"expected state {manifest.state}; found {row['state']}")
        if len({one.interval for one in manifest.intervals}) != len(manifest.intervals):
            raise ValueError("expected every interval once")
        if manifest.encode() != data:
            raise ValueError("expected canonical JSON (RFC 8785) with the fields of this format")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Tampered("the coverage cannot be read", where=where, expected=FORMAT, found=str(error)[:300]) from None
    return manifest
