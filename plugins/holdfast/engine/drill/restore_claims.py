"""What a restore drill claims, from what it measured. Without its measure a claim is unknown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.engine.config import Objectives
from holdfast.engine.drill.lost_shares import restored_without
from holdfast.engine.drill.restore_journal import Claim
from holdfast.engine.drill.restore_subject import Subject, another_cloud


@dataclass
class Measured:
    """What one drill measured so far; ``None``: not yet, or not at all."""

    rto_seconds: float | None = None
    rpo_seconds: float | None = None
    restored: dict[str, Any] | None = None
    verified: dict[str, Any] | None = None
    content: dict[str, Any] | None = None
    expectations: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    tables: list[dict[str, Any]] | None = None
    cleanup: dict[str, Any] | None = None


def claims_of(
    measured: Measured,
    subject: Subject,
    objectives: Objectives,
    *,
    vault: Mapping[str, Any],
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    backup: Mapping[str, Any] | None,
) -> tuple[list[Claim], list[str]]:
    """The claims, and what is not claimed and why.

    Args:
        backup: its origin; ``None``: there is none.
    """
    left_out: list[str] = []
    found = [
        restored_without(vault, source, target) if "shares" in vault else _isolated(vault, source, target),
        witnessed(vault),
        _objects(measured),
        *(_of_a_model(measured) if subject.kind == "model" else _of_a_dataset(measured, subject, backup, left_out)),
        at_most("rto_met", "RTO", measured.rto_seconds, objectives.rto_seconds),
        at_most("rpo_met", "RPO: age of the content", measured.rpo_seconds, objectives.rpo_seconds),
        _cleaned_up(measured),
    ]
    if vault.get("name") is not None and not vault.get("witnesses"):
        left_out.append("The vault has no witnesses: that it was not put back to an older state cannot be told.")
    return [claim for claim in found if claim is not None], left_out


def _isolated(vault: Mapping[str, Any], source: Mapping[str, Any], target: Mapping[str, Any]) -> Claim:
    named = [f"{role} {place.get('cloud') or 'unknown'}" for role, place in (("vault", vault), ("source", source))]
    return Claim(
        name="another_cloud",
        title="Restored into another cloud",
        objective=f"not {' nor '.join(named)}",
        measured=str(target.get("cloud") or "unknown"),
        holds=another_cloud(target, vault, source),
    )


def witnessed(vault: Mapping[str, Any]) -> Claim | None:
    """That nobody removed the newest backups or put an older state back, as far as the witnesses know."""
    witnesses = vault.get("witnesses") or []
    told = [one["site"] for one in witnesses if one.get("unknown") is None and one.get("sequence") is not None]
    alarm = vault.get("alarm")
    if not witnesses and alarm is None:
        return None
    return Claim(
        name="history_witnessed",
        title="The vault's history is the one its witnesses saw",
        objective="no witness saw a newer or another entry",
        measured="an alarm" if alarm else f"{len(told)} of {len(witnesses)} witnesses agree",
        holds=False if alarm else True if told else None,
    )


def _objects(measured: Measured) -> Claim:
    verified = measured.verified
    return Claim(
        name="objects_verified",
        title="Every object reads back as it was backed up",
        objective="all, and no other",
        measured=f"{verified['objects']} of {verified['expected_objects']}" if verified else "unknown",
        holds=verified["complete"] if verified else None,
    )


def _of_a_dataset(
    measured: Measured, subject: Subject, backup: Mapping[str, Any] | None, left_out: list[str]
) -> Iterator[Claim]:
    content = measured.content
    if measured.tables is not None or (backup or {}).get("tables"):
        yield _tables(measured.tables)
    if measured.restored is not None and measured.verified is not None and content is None and backup is not None:
        left_out.append("It holds no Parquet, so there are no rows or columns to compare.")
    else:
        found, recorded = (content or {}).get("found") or {}, (content or {}).get("recorded") or {}
        yield Claim(
            name="rows_equal",
            title="As many rows as were backed up",
            objective=f"{recorded['rows']} rows" if recorded else "as the backup recorded",
            measured=f"{found['rows']} rows" if found else "unknown",
            holds=content["rows_equal"] if content else None,
        )
        yield Claim(
            name="schema_equal",
            title="The same columns as were backed up",
            objective=f"{len(recorded['schemas'])} schemas" if recorded else "as the backup recorded",
            measured=f"{len(found['schemas'])} schemas" if found else "unknown",
            holds=content["schema_equal"] if content else None,
        )
    if subject.suite is None:
        left_out.append("The dataset has no suite of expectations in the topology.")
        return
    told = measured.expectations
    judged = told is not None and told["checked"] is not None
    yield Claim(
        name="expectations_met",
        title="The data is what training expects",
        objective=f"all of {subject.suite.stem}",
        measured=f"{told['checked'] - len(told['unmet'])} of {told['checked']}" if told and judged else "unknown",
        holds=told["met"] if told else None,
    )


def _tables(tables: list[dict[str, Any]] | None) -> Claim:
    whole = [one["whole"] for one in tables or ()]
    return Claim(
        name="tables_whole",
        title="Each table's version is whole at its new place",
        objective="every file its metadata names",
        measured=f"{whole.count(True)} of {len(whole)} tables" if tables else "unknown",
        holds=None if tables is None or (None in whole and False not in whole) else all(whole),
    )


def _of_a_model(measured: Measured) -> Iterator[Claim]:
    model = measured.model or {}
    yield Claim(
        name="model_loads",
        title="The model loads",
        objective="yes",
        measured={True: "yes", False: "no", None: "unknown"}[model.get("loads")],
        holds=model.get("loads"),
    )
    difference, questions = model.get("largest_difference"), model.get("questions")
    yield Claim(
        name="answers_equal",
        title="It answers its golden set as before",
        objective=f"a difference of at most {model['tolerance']:g}" if "tolerance" in model else "equal answers",
        measured="unknown" if difference is None else f"{difference:.3g} over {questions} questions",
        holds=model.get("answers_equal"),
    )


def at_most(name: str, title: str, measured: float | None, objective: float) -> Claim:
    """That a time is met."""
    return Claim(
        name=name,
        title=title,
        objective=f"≤ {objective:g} s",
        measured="unknown" if measured is None else f"{measured:.2f} s",
        holds=None if measured is None else measured <= objective,
    )


def _cleaned_up(measured: Measured) -> Claim:
    cleanup = measured.cleanup or {}
    left = len(cleanup.get("left") or ())
    return Claim(
        name="cleaned_up",
        title="Nothing of the drill is left",
        objective="no object below its prefix",
        measured={True: "nothing left", False: f"{left} or more objects left", None: "unknown"}[cleanup.get("clean")],
        holds=cleanup.get("clean"),
    )
