"""What a drill claims: each objective with its measure and a verdict, and the drill as a whole.

A verdict is the journal's own, but never better than what was measured: without its measure a claim is unknown, and
a measure that contradicts it makes it false.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.engine.drill.html import UNKNOWN, code, number, plain, seconds, text
from holdfast.engine.drill.timeline import moment

Journal = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """One line of the report's first table. ``objective`` and ``measured`` are HTML."""

    name: str
    objective: str
    measured: str
    verdict: bool | None


def outcome(journal: Journal) -> tuple[bool | None, str, str]:
    """The drill as a whole: its colour, a headline and a sentence. Green only when it is complete and all holds."""
    status, passed = journal.get("status"), part(journal, "verdict").get("passed")
    judged = list(claims(journal))
    failed = [claim.name for claim in judged if claim.verdict is False]
    unknown = [claim.name for claim in judged if claim.verdict is None]
    if status == "refused":
        return None, "Refused", "The drill was refused before it began. Nothing was changed and nothing was measured."
    if failed or journal.get("deviated") or status == "failed" or passed is False:
        reason = f"Does not hold: {', '.join(failed)}." if failed else "See the error and the steps below."
        return False, "Failed", reason
    if status != "completed":
        return (
            None,
            str(status).capitalize(),
            "The drill did not run to its end; what was measured until then is below.",
        )
    if unknown or passed is not True or journal.get("deviated") is not False:
        return None, "Not proven", f"Unknown, and so not passed: {', '.join(unknown) or 'the verdict'}."
    return True, "Passed", "Every objective and every claim below holds, each measured in this run."


def claims(journal: Journal) -> Iterator[Claim]:
    """Every claim of a drill, judged."""
    verdict, objectives = part(journal, "verdict"), part(journal, "objectives")
    rto, rpo = part(journal, "rto_seconds").get("from_fault"), part(journal, "rpo").get("seconds")
    stale, model = part(journal, "stale_writes"), part(journal, "model")
    service, after = part(journal, "service"), part(part(journal, "steady_state"), "after")
    fault, rollback = part(journal, "fault"), part(journal, "rollback")
    detect = next((s for s in rows_of(journal.get("steps")) if (s.get("name"), s.get("of")) == ("detect", "plan")), {})
    seen = part(detect, "evidence")
    yield Claim(
        "The fault was noticed",
        "the site called down",
        plain(seen.get("verdict")),
        _judged(verdict.get("detected"), seen.get("down"), seen.get("down")),
    )
    yield Claim(
        "RTO",
        f"≤ {seconds(objectives.get('rto_seconds'))}",
        seconds(rto),
        _judged(verdict.get("rto_met"), rto, _at_most(rto, objectives.get("rto_seconds"))),
    )
    yield Claim(
        "RPO",
        f"≤ {seconds(objectives.get('rpo_seconds'))}",
        seconds(rpo),
        _judged(verdict.get("rpo_met"), rpo, _at_most(rpo, objectives.get("rpo_seconds"))),
    )
    accepted = stale.get("accepted")
    yield Claim(
        "Stale writes accepted",
        "0",
        f"{number(accepted)} of {number(stale.get('attempted'))} attempted",
        _judged(verdict.get("stale_writes_refused"), accepted, _at_most(accepted, 0)),
    )
    digest, reference = model.get("digest"), model.get("reference_digest")
    yield Claim(
        "Same model as the uninterrupted run",
        "bit for bit",
        f"{code(digest)}<br>{code(reference)} (reference)",
        _judged(
            verdict.get("model_identical"),
            None if None in (digest, reference) else model.get("identical"),
            None if None in (digest, reference) else digest == reference,
        ),
    )
    yield Claim(
        "The service answers the same",
        "every golden answer",
        plain(service.get("answers_equal")),
        _judged(verdict.get("answers_equal"), service.get("answers_equal"), service.get("answers_equal")),
    )
    yield Claim(
        "Steady state afterwards",
        "every check",
        _checks_summary(after),
        _judged(verdict.get("steady_state_restored"), after.get("holds"), after.get("holds")),
    )
    lifted = fault.get("lifted_at") or rollback.get("fault_lifted") or None
    yield Claim(
        "The fault was lifted",
        "always",
        timestamp(fault.get("lifted_at")) if fault.get("lifted_at") else plain(lifted),
        _judged(verdict.get("fault_lifted"), lifted, None),
    )


def _judged(verdict: object, measured: object, judged_here: object) -> bool | None:
    """The journal's verdict; unknown when nothing was measured, failed when the measure contradicts it."""
    if not isinstance(verdict, bool):
        return None
    if verdict and measured is None:
        return None
    return False if judged_here is False else verdict


def _at_most(measured: object, objective: object) -> bool | None:
    if isinstance(measured, int | float) and isinstance(objective, int | float):
        return measured <= objective
    return None


def _checks_summary(state: Journal) -> str:
    checks = rows_of(state.get("checks"))
    return f"{sum(c.get('ok') is True for c in checks)} of {len(checks)} hold" if checks else UNKNOWN


def timestamp(value: object) -> str:
    found = moment(value)
    return UNKNOWN if found is None else text(found.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC")


def part(journal: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = journal.get(key)
    return value if isinstance(value, Mapping) else {}


def rows_of(value: object) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []
