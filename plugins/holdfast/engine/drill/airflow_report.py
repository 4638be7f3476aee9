"""The report of a drill of Airflow: one self-contained HTML page in which every number comes from the journal."""

from __future__ import annotations

from holdfast.engine.drill.claims import Journal, part, rows_of, timestamp
from holdfast.engine.drill.html import code, facts, folded, page, plain, seconds, section, table, text
from holdfast.engine.drill.restore_report import banner, claims_section, footer, made_with

_KINDS = {
    "airflow-restore-drill": "from a dump in a vault",
    "airflow-pitr-drill": "from base backups and the archived log",
}


def render_airflow_report(journal: Journal, *, key_id: str | None = None) -> str:
    """The whole page.

    Args:
        journal: an Airflow drill's journal document.
        key_id: of the key that will sign it.
    """
    title = f"Drill of Airflow's own state, {_KINDS.get(str(journal.get('kind')), '')}"
    body = "".join(
        [
            f"<header><h1>{text(title)}</h1>{banner(journal)}{_head(journal)}</header>",
            claims_section(journal),
            _steps(journal),
            section(
                "What was restored", facts((name, plain(value)) for name, value in part(journal, "source").items())
            ),
            _not_proven(journal),
            made_with(journal),
            footer(key_id),
        ]
    )
    return page(title, body)


def _head(journal: Journal) -> str:
    pairs = [
        ("Drill", code(journal.get("drill_id"))),
        ("Status", text(journal.get("status"))),
        ("Began", timestamp(journal.get("started_at"))),
        ("RTO", seconds(journal.get("rto_seconds"))),
        ("RPO", seconds(journal.get("rpo_seconds"))),
        ("Content of", timestamp(journal.get("taken_at"))),
        ("Asked for", timestamp(journal.get("asked_for")) if journal.get("asked_for") else "the newest"),
        ("Database", plain(journal.get("database"))),
        ("Airflow", plain(journal.get("airflow"))),
        ("Run by", plain(journal.get("run_by"))),
    ]
    error = part(journal, "error")
    problem = ""
    if error:
        problem = (
            '<div class="banner fail"><b>Error</b>' + facts((k, plain(v)) for k, v in error.items() if v) + "</div>"
        )
    return facts(pairs) + problem


def _steps(journal: Journal) -> str:
    rows = [
        [
            text(one.get("name")),
            text(one.get("outcome")),
            seconds(one.get("seconds")),
            plain(one.get("reason")),
            folded("facts", one.get("facts")),
        ]
        for one in rows_of(journal.get("steps"))
    ]
    lead = "The recovery time is from the start of the drill to the success of a DAG run by the restored Airflow."
    return section("Recovery time", table(("step", "", "took", "what was found", ""), rows), lead=lead)


def _not_proven(journal: Journal) -> str:
    items = [
        f"{text(claim.get('title'))}: unknown. It was not measured, so it is not passed."
        for claim in rows_of(journal.get("claims"))
        if claim.get("holds") is None
    ]
    items += [
        "One state was restored: this one.",
        "The recovery time has no time in it for a person to decide, or for machines to be got.",
        "Nothing of the installation's configuration was used: its DAGs, plugins, remote logs and secrets backend.",
        (
            "The signature shows that these files are unchanged since they were signed. Who signed them is only known "
            "to a reader who has the public key from elsewhere."
        ),
        "No claim is made of compliance with any regulation.",
    ]
    return section("What this does not prove", "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>")
