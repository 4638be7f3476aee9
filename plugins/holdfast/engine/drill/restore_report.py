"""The report of a restore drill: one self-contained HTML page in which every number comes from the journal."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.engine.drill.claims import Journal, part, rows_of, timestamp
from holdfast.engine.drill.html import (
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
from holdfast.engine.drill.timeline import moment

_BANNERS = {
    "pass": ("pass", "Passed", "The backup was restored, and every claim below holds, each measured in this run."),
    "fail": ("fail", "Failed", ""),
    "aborted": ("unknown", "Aborted", "The drill did not come to its end; what was measured until then is below."),
}


def render_restore_report(journal: Journal, *, key_id: str | None = None) -> str:
    """The whole page.

    Args:
        journal: a restore drill's journal document.
        key_id: of the key that will sign it.
    """
    title = f"Restore drill of {journal.get('subject')}"
    body = "".join(
        [
            f"<header><h1>{text(title)}</h1>{banner(journal)}{_head(journal)}</header>",
            claims_section(journal),
            _phases(journal),
            _backup(journal),
            _checks(journal),
            _cleanup(journal),
            not_proven(journal, _limits(journal)),
            made_with(journal),
            footer(key_id),
        ]
    )
    return page(title, body)


def banner(journal: Journal) -> str:
    """The verdict, for whoever reads one line."""
    kind, headline, sentence = _BANNERS.get(str(journal.get("verdict")), _BANNERS["fail"])
    claims = rows_of(journal.get("claims"))
    wrong = [str(claim.get("title")) for claim in claims if claim.get("holds") is False]
    unknown = [str(claim.get("title")) for claim in claims if claim.get("holds") is None]
    if not sentence:
        told = [f"Does not hold: {', '.join(wrong)}." if wrong else ""]
        told.append(f"Unknown, and so not passed: {', '.join(unknown)}." if unknown else "")
        sentence = " ".join(one for one in told if one) or "See the error below."
    return f'<div class="banner {kind}"><b>{text(headline)}</b>{text(sentence)}</div>'


def _head(journal: Journal) -> str:
    start, end = moment(journal.get("started_at")), moment(journal.get("ended_at"))
    source, vault, target = part(journal, "source"), part(journal, "vault"), part(journal, "target")
    pairs = [
        ("Drill", code(journal.get("drill_id"))),
        ("Of", f"{plain(journal.get('kind'))} {code(journal.get('subject'))} of group {plain(journal.get('group'))}"),
        ("Status", text(journal.get("status"))),
        ("Began", timestamp(journal.get("started_at"))),
        ("Took", seconds((end - start).total_seconds() if start and end else None)),
        ("Source", _place(source)),
        ("Vault", f"{code(vault.get('name'))} at {_place(vault)}"),
        ("Restored at", f"{_place(target)}, below {code(target.get('prefix'))}"),
        ("Run by", plain(journal.get("run_by"))),
    ]
    return facts(pairs) + error_banner(journal)


def error_banner(journal: Journal) -> str:
    """What ended the drill, where something did."""
    error = part(journal, "error")
    told = facts((name, plain(value)) for name, value in error.items() if value)
    return f'<div class="banner fail"><b>Error</b>{told}</div>' if error else ""


def _place(where: Journal) -> str:
    return f"{plain(where.get('site'))} ({plain(where.get('cloud'))}, {plain(where.get('jurisdiction'))})"


def claims_section(journal: Journal) -> str:
    """Objectives, measures, and what is not claimed."""
    rows = [
        [
            f"<b>{text(claim.get('title'))}</b>",
            text(claim.get("objective")),
            text(claim.get("measured")),
            badge(claim.get("holds")),
        ]
        for claim in rows_of(journal.get("claims"))
    ]
    left_out = journal.get("not_claimed")
    notes = "".join(f"<li>{text(one)}</li>" for one in left_out) if isinstance(left_out, list) else ""
    return section(
        "Objectives and measures",
        table(("claim", "objective", "measured", "verdict"), rows)
        + (f"<h3>Not claimed</h3><ul>{notes}</ul>" if notes else ""),
    )


def _phases(journal: Journal) -> str:
    rto = part(journal, "rto_seconds")
    rows = [
        [
            text(one.get("name")),
            text(one.get("status")),
            timestamp(one.get("started_at")),
            seconds(one.get("seconds")),
            folded("error", one.get("error")),
        ]
        for one in rows_of(journal.get("phases"))
    ]
    lead = "The recovery time is from the start of the drill to the end of the last check of what was restored."
    return section(
        "Recovery time",
        facts([("RTO", seconds(rto.get("total")))]) + table(("phase", "status", "began", "took", ""), rows),
        lead=lead,
    )


def _backup(journal: Journal) -> str:
    backup, vault = part(journal, "backup"), part(journal, "vault")
    pairs = [
        ("Backup", code(backup.get("backup"))),
        ("Content of", timestamp(backup.get("taken_at"))),
        ("Age at the start (RPO)", seconds(journal.get("rpo_seconds"))),
        ("Objects", number(backup.get("objects"))),
        ("Bytes", size(backup.get("size_bytes"))),
        ("Entry of the log", f"{number(vault.get('entry'))} {code(vault.get('entry_digest'))}"),
        ("Repository", code(vault.get("repository"))),
    ]
    witnesses = rows_of(vault.get("witnesses"))
    rows = [[plain(w.get("site")), plain(w.get("sequence")), plain(w.get("unknown") or "agrees")] for w in witnesses]
    body = facts(pairs) + folded("what the backup recorded", backup)
    return section("The backup", body + (table(("witness", "entry", "says"), rows) if rows else ""))


def _checks(journal: Journal) -> str:
    restored, verified = part(journal, "restored"), part(journal, "verified")
    body = facts(
        [
            ("Restored objects", number(restored.get("objects"))),
            ("Restored bytes", size(restored.get("bytes"))),
            ("Read from the vault", size(restored.get("read_bytes"))),
            ("Read back and hashed", f"{number(verified.get('objects'))} objects, {size(verified.get('bytes'))}"),
        ]
    )
    for name in ("verified", "content", "expectations", "model", "tables"):
        body += folded(name, journal.get(name))
    return section("What was checked", body)


def _cleanup(journal: Journal) -> str:
    cleanup, cost = part(journal, "cleanup"), part(journal, "cost")
    pairs = [(name.replace("_", " ").capitalize(), plain(value)) for name, value in cleanup.items()]
    return section("Cleaning up, and cost", facts(pairs) + facts((k, plain(v)) for k, v in cost.items()))


def not_proven(journal: Journal, limits: Iterable[str]) -> str:
    """What nobody may conclude.

    Args:
        limits: of this kind of drill, as HTML.
    """
    items = [
        f"{text(claim.get('title'))}: unknown. It was not measured, so it is not passed."
        for claim in rows_of(journal.get("claims"))
        if claim.get("holds") is None
    ]
    items += limits
    items += [
        (
            "The signature shows that these files are unchanged since they were signed. Who signed them is only known "
            "to a reader who has the public key from elsewhere."
        ),
        "No claim is made of compliance with any regulation.",
    ]
    return section("What this does not prove", "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>")


def _limits(journal: Journal) -> list[str]:
    clocks = part(journal, "clock_source")
    return [
        "One backup was restored: this one. That the others can be is what `holdfast vault verify` is for.",
        (
            "The recovery time is of this data on this day, with the vault and the target in reach; it has no time in "
            "it for a person to decide, or for machines to be got."
        ),
        "“The model answers the same” covers the golden questions asked.",
        f"Times: {plain(clocks.get('durations'))}; {plain(clocks.get('timestamps'))}.",
    ]


def made_with(journal: Journal) -> str:
    """Versions."""
    rows = [[text(name), code(version)] for name, version in sorted(part(journal, "versions").items())]
    return section("Versions", table(("part", "version"), rows))


def footer(key_id: str | None) -> str:
    """What signs the page."""
    signed = f" It is signed with key <code>{text(key_id)}</code>." if key_id else ""
    return (
        "<footer>Made from journal.json, which has every number on this page."
        f"{signed} Check both with <code>holdfast drill verify PATH</code>; it needs no network.</footer>"
    )
