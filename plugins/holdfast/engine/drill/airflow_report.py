"""The report of a drill of Airflow: one self-contained HTML page in which every number comes from the journal."""

from __future__ import annotations

from holdfast.engine.drill.claims import Journal, part, rows_of, timestamp
from holdfast.engine.drill.html import code, facts, folded, page, plain, seconds, section, table, text
from holdfast.engine.drill.restore_report import banner, claims_section, error_banner, footer, made_with, not_proven

_KINDS = {
    "airflow-restore-drill": "from a dump in a vault",
    "airflow-pitr-drill": "from base backups and the archived log",
}
_LIMITS = (
    "One state was restored: this one.",
    "The recovery time has no time in it for a person to decide, or for machines to be got.",
    "Nothing of the installation's configuration was used: its DAGs, plugins, remote logs and secrets backend.",
)


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
            not_proven(journal, _LIMITS),
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
    return facts(pairs) + error_banner(journal)


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
