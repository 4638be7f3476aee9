"""The report of a drill: one self-contained HTML page in which every number comes from the journal.

No script, no external resource; it reads from a disk, in the dark and on paper. What the journal does not know is
shown as unknown and never as a pass.
"""

from __future__ import annotations

from holdfast.engine.drill.claims import Journal, claims, outcome, part, rows_of, timestamp
from holdfast.engine.drill.html import (
    UNKNOWN,
    badge,
    code,
    facts,
    folded,
    number,
    page,
    plain,
    seconds,
    section,
    size,
    table,
    text,
)
from holdfast.engine.drill.timeline import moment, timeline

_NAMES = ("job", "name", "run", "service", "subject")

_RTO = (
    ("from_fault", "from the fault"),
    ("from_detection", "from detection"),
    ("from_decision", "from the decision"),
    ("without_approval", "from the fault, without the time a person took to approve"),
)


def render_report(journal: Journal, *, key_id: str | None = None) -> str:
    """The whole page.

    Args:
        journal: a drill's journal document.
        key_id: of the key that will sign it.
    """
    title = f"Drill {journal.get('scenario')} of {journal.get('group')}"
    body = "".join(
        [
            f"<header><h1>{text(title)}</h1>{_banner(journal)}{_head(journal)}</header>",
            _objectives(journal),
            _timeline(journal),
            _steps(journal),
            _loss(journal),
            _stale_writes(journal),
            _model_and_service(journal),
            _lineage(journal),
            _steady_state(journal),
            _fault(journal),
            _not_proven(journal),
            _made_with(journal),
            _footer(key_id),
        ]
    )
    return page(title, body)


def _banner(journal: Journal) -> str:
    verdict, headline, sentence = outcome(journal)
    kind = {True: "pass", False: "fail", None: "unknown"}[verdict]
    return f'<div class="banner {kind}"><b>{text(headline)}</b>{text(sentence)}</div>'


def _head(journal: Journal) -> str:
    plan, decision, epoch = part(journal, "plan"), part(journal, "decision"), part(journal, "epoch")
    start, end = moment(journal.get("started_at")), moment(journal.get("ended_at"))
    pairs = [
        ("Drill", code(journal.get("drill_id"))),
        ("Status", text(journal.get("status")) + (" · deviated" if journal.get("deviated") else "")),
        ("Began", timestamp(journal.get("started_at"))),
        ("Took", seconds((end - start).total_seconds() if start and end else None)),
        ("Run by", plain(journal.get("run_by"))),
    ]
    if plan:
        pairs += [
            ("Plan", f"{text(plan.get('verb', 'plan'))} {code(plan.get('plan_id'))} · hash {code(plan.get('hash'))}"),
            ("From → to", f"{plain(plan.get('source'))} → {plain(plan.get('target'))}"),
            ("Decided", _decision(decision)),
        ]
    pairs.append(("Epoch", f"{number(epoch.get('before'))} → {number(epoch.get('after'))}"))
    error = part(journal, "error")
    problem = ""
    if error:
        problem = (
            '<div class="banner fail"><b>Error</b>' + facts((k, plain(v)) for k, v in error.items() if v) + "</div>"
        )
    return facts(pairs) + problem


def _decision(decision: Journal) -> str:
    if not decision:
        return UNKNOWN
    if decision.get("automatic"):
        return "automatically, by the group's rules"
    return f"approved by {plain(decision.get('approved_by'))}"


def _objectives(journal: Journal) -> str:
    judged = [[f"<b>{text(c.name)}</b>", c.objective, c.measured, badge(c.verdict)] for c in claims(journal)]
    rto = part(journal, "rto_seconds")
    ways = table(
        ("Recovery time, until the first right answer", "measured"),
        [[text(words), seconds(rto.get(key))] for key, words in _RTO],
    )
    return section("Objectives and measures", table(("claim", "objective", "measured", "verdict"), judged) + ways)


def _timeline(journal: Journal) -> str:
    picture = timeline(journal)
    return section(
        "Timeline",
        picture or "<p>Nothing was begun that could be drawn.</p>",
        lead="The plan's steps by their own clocks. A step may do part of its work while an earlier one waits.",
    )


def _steps(journal: Journal) -> str:
    rows = []
    zero = moment(part(journal, "fault").get("injected_at")) or moment(journal.get("started_at"))
    for step in rows_of(journal.get("steps")):
        start = moment(step.get("started_at"))
        offset = (start - zero).total_seconds() if start and zero else None
        good = {"done": True, "skipped": True, "failed": False}.get(str(step.get("status")))
        kind = {True: "pass", False: "fail", None: "unknown"}[good]
        detail = folded("evidence", step.get("evidence")) + folded("error", step.get("error"))
        rows.append(
            [
                f"<b>{text(step.get('name'))}</b>",
                text(step.get("of", "")),
                f'<span class="badge {kind}">{text(step.get("status"))}</span>',
                "" if offset is None else f"{offset:+,.2f} s",
                seconds(step.get("seconds")),
                detail,
            ]
        )
    if not rows:
        return section("Steps", "<p>No step was begun.</p>")
    since = "the fault" if part(journal, "fault").get("injected_at") else "the start"
    return section("Steps", table(("step", "of", "status", f"began, from {since}", "took", ""), rows))


def _loss(journal: Journal) -> str:
    rpo = part(journal, "rpo")
    body = facts(
        [
            ("Time", seconds(rpo.get("seconds"))),
            ("Objects", number(rpo.get("objects"))),
            ("Bytes", size(rpo.get("bytes"))),
            ("Training steps", number(rpo.get("training_steps"))),
        ]
    )
    for key, title in (("by_subject", "Data and models"), ("by_run", "Training runs")):
        body += _any_table(title, rpo.get(key))
    return section("What was lost", body, lead=str(rpo.get("how") or ""))


def _stale_writes(journal: Journal) -> str:
    stale = part(journal, "stale_writes")
    rows = [
        [
            plain(p.get("kind")),
            plain(p.get("site")),
            plain(p.get("subject")),
            number(p.get("attempted")),
            number(p.get("accepted")),
            plain(p.get("outcome")),
        ]
        for p in rows_of(stale.get("probes"))
    ]
    body = (
        table(("attempt", "site", "of", "attempted", "accepted", "outcome"), rows)
        if rows
        else "<p>No attempt was made.</p>"
    )
    return section(
        "Stale writes",
        body,
        lead="Attempts to write in the ended epoch. Accepted is what any reader of the "
        "newest lineage would select, or anybody acted on; a write that lands and is never selected is not.",
    )


def _model_and_service(journal: Journal) -> str:
    model = part(journal, "model")
    body = facts(
        [
            ("Model", code(model.get("digest"))),
            ("Reference", code(model.get("reference_digest"))),
            ("Identical", plain(model.get("identical"))),
        ]
    )
    body += _any_table("Training runs", journal.get("training"))
    for answer in rows_of(part(journal, "service").get("services")):
        shown = [
            (name.replace("_", " ").capitalize(), plain(value))
            for name, value in answer.items()
            if name not in ("answers", "expected", "service") and (name, value) != ("refused", None)
        ]
        body += f"<h3>Service {plain(answer.get('service'))}</h3>" + facts(shown)
        body += _answers(answer.get("answers"), answer.get("expected"))
    return section("Model and service", body)


def _answers(answers: object, expected: object) -> str:
    if not isinstance(answers, list) or not isinstance(expected, list) or len(answers) != len(expected):
        return folded("answers", {"answers": answers, "expected": expected}) if answers or expected else ""
    rows = [
        [number(i + 1), code(a), code(e), badge(a == e)] for i, (a, e) in enumerate(zip(answers, expected, strict=True))
    ]
    body = table(("", "answer", "expected", "equal"), rows)
    return f"<details><summary>{len(rows)} golden answers</summary>{body}</details>"


def _lineage(journal: Journal) -> str:
    epoch = part(journal, "epoch")
    promoted = next(
        (
            part(s, "evidence")
            for s in rows_of(journal.get("steps"))
            if s.get("name") == "promote" and s.get("status") == "done"
        ),
        {},
    )
    body = facts([("Before", number(epoch.get("before"))), ("After", number(epoch.get("after")))])
    rows = [
        [
            plain(e.get("subject")),
            code(e.get("forked_from")),
            number(e.get("objects")),
            size(e.get("bytes")),
            plain(e.get("verified_by")),
        ]
        for e in rows_of(promoted.get("snapshots"))
    ]
    if rows:
        body += table(("data and models", "forked from snapshot", "objects", "bytes", "verified by"), rows)
    rows = [
        [plain(e.get("run")), code(e.get("forked_from")), number(e.get("step")), plain(e.get("resume"))]
        for e in rows_of(promoted.get("runs"))
    ]
    if rows:
        body += table(("training run", "forked from checkpoint", "step", "resumed"), rows)
    return section(
        "Lineage", body, lead="What the new epoch began from. Nothing that is not in its ancestry is ever selected."
    )


def _steady_state(journal: Journal) -> str:
    body = ""
    for when in ("before", "after"):
        state = part(part(journal, "steady_state"), when)
        rows = [
            [plain(c.get("name")), plain(c.get("subject")), plain(c.get("detail")), badge(c.get("ok"))]
            for c in rows_of(state.get("checks"))
        ]
        where = f" at {plain(state.get('site'))}, epoch {plain(state.get('epoch'))}" if state else ""
        body += f"<h3>{when.capitalize()}{where} {badge(state.get('holds'))}</h3>"
        body += table(("check", "of", "found", "verdict"), rows) if rows else "<p>Not looked at.</p>"
    return section("Steady-state hypothesis", body)


def _fault(journal: Journal) -> str:
    fault, rollback = part(journal, "fault"), part(journal, "rollback")
    if not fault:
        return section("Fault and rollback", "<p>No fault was injected.</p>")
    pairs = [(k.replace("_", " ").capitalize(), plain(v)) for k, v in fault.items() if not isinstance(v, list | dict)]
    more = "".join(folded(k.replace("_", " "), v) for k, v in fault.items() if isinstance(v, list | dict))
    undone = facts((k.replace("_", " ").capitalize(), plain(v)) for k, v in rollback.items())
    return section("Fault and rollback", facts(pairs) + more + "<h3>Rollback</h3>" + undone)


def _not_proven(journal: Journal) -> str:
    items = [
        f"{text(claim.name)}: unknown. It was not measured, so it is not passed."
        for claim in claims(journal)
        if claim.verdict is None
    ]
    by = part(journal, "fault").get("by")
    if by:
        items.append(
            f"The fault was made by {text(by)}. The run shows how the system behaves under that fault, "
            "not how a cloud behaves in an outage of its own."
        )
    items += [
        "“The same model” compares the resumed run with an uninterrupted run of this drill, in this environment.",
        "“The service answers the same” covers the golden questions asked, through the one resolver that was asked.",
        (
            f"Times: {plain(part(journal, 'clock_source').get('durations'))}; "
            f"{plain(part(journal, 'clock_source').get('timestamps'))}."
        ),
        (
            "The signature shows that these files are unchanged since they were signed. Who signed them is only known "
            "to a reader who has the public key from elsewhere."
        ),
        "No claim is made of compliance with any regulation.",
    ]
    return section("What this does not prove", "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>")


def _made_with(journal: Journal) -> str:
    versions = part(journal, "versions")
    rows = [[text(name), code(version)] for name, version in sorted(versions.items())]
    clocks = facts((k.capitalize(), plain(v)) for k, v in part(journal, "clock_source").items())
    return section("Versions and clocks", (table(("part", "version"), rows) if rows else f"<p>{UNKNOWN}</p>") + clocks)


def _footer(key_id: str | None) -> str:
    signed = f" It is signed with key <code>{text(key_id)}</code>." if key_id else ""
    return (
        "<footer>Made from journal.json, which has every number on this page."
        f"{signed} Check both with <code>holdfast drill verify PATH</code>; it needs no network.</footer>"
    )


def _any_table(title: str, rows: object) -> str:
    """A list of objects as a table with the columns they have."""
    found = rows_of(rows)
    if not found:
        return ""
    # The journal's keys are in alphabetical order; what the row is about belongs in front.
    columns = sorted(dict.fromkeys(key for row in found for key in row), key=lambda c: (c not in _NAMES, c))
    cells = [[_cell(c, row.get(c)) if c in row else "" for c in columns] for row in found]
    body = table([c.replace("_", " ") for c in columns], cells)
    return f"<h3>{text(title)}</h3>{body}"


def _cell(column: str, value: object) -> str:
    return size(value) if column == "bytes" else seconds(value) if column == "seconds" else plain(value)
