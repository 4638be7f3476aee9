"""How long it took, four ways, from the records' own times.

Times of one host are subtracted on its monotonic clock; between hosts only their wall clocks are left, and the
journal says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast.engine.recovery.journal import StepRecord


@dataclass(frozen=True)
class Moment:
    """A point in time on both clocks."""

    wall: datetime
    monotonic: float
    boot: str

    @classmethod
    def end_of(cls, record: StepRecord) -> Moment:
        return cls(record.ended_at, record.monotonic_end, record.boot)

    @classmethod
    def start_of(cls, record: StepRecord) -> Moment:
        return cls(record.started_at, record.monotonic_end - record.seconds, record.boot)


def between(start: Moment | None, end: Moment | None) -> float | None:
    """Seconds from one moment to the other; ``None`` when one is missing."""
    if start is None or end is None:
        return None
    if start.boot == end.boot:
        return max(0.0, end.monotonic - start.monotonic)
    return max(0.0, (end.wall - start.wall).total_seconds())


def recovery_times(
    inject: StepRecord | None, plan: Mapping[str, StepRecord], arm: StepRecord | None = None
) -> dict[str, float | None]:
    """Seconds to the first right answer through DNS.

    ``from_fault``: since the fault began to be injected; when an earlier attempt may have, since ``arm``.
    ``from_detection``: since the verdict. ``from_decision``:
    since the decision was recorded. ``without_approval``: from the fault, less the time a person took to approve.
    """
    fault = Moment.start_of(inject) if inject else None
    if inject and arm and inject.evidence.get("armed_before"):
        fault = Moment.end_of(arm)
    answered = Moment.end_of(plan["verify"]) if "verify" in plan else None
    detected = Moment.end_of(plan["detect"]) if "detect" in plan else None
    decided = Moment.end_of(plan["decide"]) if "decide" in plan else None
    from_fault = between(fault, answered)
    waited = None
    if "decide" in plan:
        by_person = not plan["decide"].evidence.get("automatic", False)
        waited = between(detected, Moment.start_of(plan["decide"])) if by_person else 0.0
    return {
        "from_fault": _rounded(from_fault),
        "from_detection": _rounded(between(detected, answered)),
        "from_decision": _rounded(between(decided, answered)),
        "without_approval": _rounded(None if from_fault is None or waited is None else max(0.0, from_fault - waited)),
    }


def clock_source(records: list[StepRecord]) -> dict[str, Any]:
    """Which clocks the times come from."""
    hosts = sorted({record.boot for record in records})
    return {
        "durations": "CLOCK_BOOTTIME of one host" if len(hosts) <= 1 else "wall clocks of several hosts between steps",
        "timestamps": "the hosts' wall clocks, UTC",
        "hosts": len(hosts),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
