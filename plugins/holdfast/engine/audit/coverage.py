"""Coverage manifests: per source and interval whether all events are there, and by what proof; as documents."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.interface import WORST_FIRST, Coverage, Finding, Interval, State
from holdfast.engine.snapshot.documents import canonical, iso_utc

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

    @property
    def records(self) -> int:
        return sum(one.records for one in self.intervals)

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
        proof=row["proof"],
        expected=row["expected"],
        observed=row["observed"],
        objects=row["objects"],
        records=row["records"],
        findings=tuple(
            Finding(found["code"], found["detail"], found["where"], State(found["state"])) for found in row["findings"]
        ),
    )
    if row["state"] != coverage.state:
        raise ValueError(f"expected state {coverage.state} by its findings; found {row['state']}")
    return coverage


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def parse_coverage(data: bytes, where: str) -> CoverageManifest:
    """A coverage manifest from its bytes.

    Raises:
        Tampered: it is none, or claims a better state than its findings bear out.
    """
    try:
        row = json.loads(data)
        if row["format"] != FORMAT:
            raise ValueError(f"expected {FORMAT}; found {row['format']}")
        manifest = CoverageManifest(
            row["source"], row["kind"], tuple(coverage_from_dict(one) for one in row["intervals"])
        )
        if row["state"] != manifest.state:
            raise ValueError(f"expected state {manifest.state}; found {row['state']}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Tampered("the coverage cannot be read", where=where, expected=FORMAT, found=str(error)[:300]) from None
    return manifest
