"""What `holdfast train` shows a person."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from holdfast.cli.output import console, errors, to_json
from holdfast.engine.checkpoint.risk import RunAtRisk
from holdfast.engine.compute import JobState
from holdfast.engine.config.compute import Placement
from holdfast.engine.pipeline.checkpoints import (
    CheckpointListing,
    CheckpointVerification,
    ListedCheckpoint,
    VerifiedCheckpoint,
)
from holdfast.engine.pipeline.resuming import Resumption
from holdfast.engine.pipeline.stopping import StoppedRun
from holdfast.engine.pipeline.telling import size
from holdfast.engine.pipeline.training_status import Beat, TrainingStatus
from holdfast.engine.recovery.placing import describe
from holdfast.engine.recovery.start_training import StartedJob


def plain(value: object) -> dict[str, Any]:
    """A dataclass as the document `--json` prints."""
    found: dict[str, Any] = json.loads(to_json(value))
    return found


def started_facts(started: StartedJob) -> dict[str, Any]:
    return {
        "run": started.run,
        "epoch": started.epoch,
        "site": started.site,
        "dataset_snapshot": started.dataset_snapshot,
        "attempt": started.attempt,
        "placement": started.placement.model_dump(mode="json", exclude_none=True),
        "handle": {**asdict(started.handle), "reference": dict(started.handle.reference)},
    }


def started_text(started: StartedJob, state: JobState | None) -> str:
    stands = "" if state is None else f": {state}"
    where = f"{started.run} at {started.site} in epoch {started.epoch}, as {started.handle.name}"
    return f"{where}, attempt {started.attempt} at {describe(started.placement)}{stands}"


def print_outcome(outcome: Mapping[str, Any]) -> None:
    console.print(
        f"{outcome['run']} ended well at step {outcome['step']} ({outcome['site']}, epoch {outcome['epoch']}): "
        f"{outcome['model']} {outcome['snapshot_id']}, {outcome['model_digest']}",
        markup=False,
    )


def print_status(found: TrainingStatus) -> None:
    """One table of facts, one of standbys; what is not known is on stderr."""
    console.print(f"{found.run} at {found.active_site}, epoch {found.epoch}", markup=False)
    facts = Table(box=None, show_header=False)
    job = found.job_status
    facts.add_row("job", "none in this epoch" if job is None else escape(f"{job.state}{_detail(job.detail)}"))
    if found.beat is not None:
        for name, value in _beat_rows(found.beat):
            facts.add_row(name, value)
    facts.add_row("durable step", "unknown" if found.durable_step is None else str(found.durable_step))
    console.print(facts, markup=False)
    if found.attempts:
        console.print(_attempts_table(found), markup=False)
    table = Table("standby", "replicated step", "at risk", "unsaved", "not replicated", "", box=None)
    for one in found.at_risk:
        table.add_row(
            one.standby,
            str(one.standby_step),
            risk_text(one),
            str(one.unsaved_steps),
            str(one.unreplicated_steps),
            escape(one.detail),
        )
    for site, why in found.refused_standbys.items():
        table.add_row(site, "none", "", "", "", escape(f"refused: {why}"))
    if table.row_count:
        console.print(table, markup=False)
    for problem in found.problems:
        errors.print(f"not known: {problem}", style="red", markup=False)


def _attempts_table(found: TrainingStatus) -> Table:
    table = Table("attempt", "placement", "state", "why", "", box=None)
    for one in found.attempts:
        placement = describe(Placement.model_validate(one.placement))
        table.add_row(str(one.attempt), placement, one.state, escape(one.reason), escape(one.detail or ""))
    return table


def print_resumption(found: Resumption, word: Mapping[str, Any] | None) -> None:
    started = found.started
    if not found.begun:
        console.print(f"{started_text(started, found.was)}; nothing was started", markup=False)
        return
    election = found.election
    if election.manifest is None:
        console.print(f"{started_text(started, None)}, from the start: there is no checkpoint to take", markup=False)
    else:
        console.print(
            f"{started_text(started, None)}, from step {election.step} of epoch {election.manifest.epoch}, "
            f"written at {election.manifest.site} ({election.digest})",
            markup=False,
        )
    for passed in election.passed_over:
        console.print(f"  passed over {passed.key}: {passed.reason}", markup=False)
    if word is None:
        console.print("The job has not said yet whether its resume is bitwise; `holdfast train status` tells it then.")
        return
    console.print(f"The job resumed at step {word.get('step')}: {word.get('resume')}", markup=False)
    for unlike in word.get("differences", []):
        console.print(f"  differs: {unlike}", markup=False)


def resumption_facts(found: Resumption, word: Mapping[str, Any] | None) -> dict[str, Any]:
    election = found.election
    return {
        **started_facts(found.started),
        "begun": found.begun,
        "was": found.was,
        "elected": {
            "step": election.step,
            "digest": election.digest,
            "epoch": election.manifest.epoch if election.manifest else None,
            "site": election.manifest.site if election.manifest else None,
            "passed_over": [asdict(one) for one in election.passed_over],
        },
        "resumed": word,
    }


def stopped_facts(found: StoppedRun) -> dict[str, Any]:
    return {
        "run": found.run,
        "epoch": found.epoch,
        "site": found.site,
        "handle": {**asdict(found.handle), "reference": dict(found.handle.reference)},
        "state": found.status.state,
        "step": found.status.step,
        "already": found.already,
    }


def print_listing(found: CheckpointListing) -> None:
    console.print(f"{found.run}, epoch {found.epoch}, active at {found.active_site}", markup=False)
    table = Table("site", "step", "epoch", "written at", "size", "receipt", "lineage", "odd", box=None)
    for site in found.sites:
        for one in site.checkpoints:
            table.add_row(site.site, str(one.step), str(one.epoch), *_row(one))
        if not site.checkpoints and site.error is None:
            table.add_row(site.site, "none")
    console.print(table, markup=False)
    for alarm in found.alarms:
        errors.print(f"ALARM: {alarm}", style="red", markup=False)
    for site in found.sites:
        for one in site.checkpoints:
            if one.unreadable is not None:
                errors.print(f"{site.site}: {one.key}: {one.unreadable}", style="red", markup=False)
        if site.error is not None:
            errors.print(f"{site.site}: {site.error}", style="red", markup=False)


def print_verification(found: CheckpointVerification) -> None:
    for site in found.sites:
        damaged = [one for one in site.checkpoints if one.damage is not None]
        known = sum(one.unknown is None for one in site.checkpoints)
        console.print(
            f"{site.site}: {known} checkpoints, {size(site.read_bytes)} read and whole, "
            f"{len(damaged)} damaged{_encoded_text(site.checkpoints)}",
            markup=False,
        )
        for one in site.checkpoints:
            if one.damage is not None or one.unknown is not None:
                errors.print(f"  {one.key}: {one.damage or one.unknown}", style="red", markup=False)
        if site.error is not None:
            errors.print(f"  not all of it is known: {site.error}", style="red", markup=False)
    console.print(f"{found.run}: {found.verdict}", markup=False)


def risk_text(one: RunAtRisk) -> str:
    """Steps, and seconds where they are known."""
    seconds = "unknown time" if one.seconds is None else f"{one.seconds:.0f} s"
    return f"{one.steps} steps, {seconds}"


def _row(one: ListedCheckpoint) -> tuple[str, str, str, str, str]:
    if one.unreadable is not None:
        return "", "", "", "", "unreadable"
    line = "unknown" if one.in_lineage is None else "yes" if one.in_lineage else "no"
    odd = "; ".join(filter(None, (*one.warnings, one.alarm)))
    stored = size(one.size_bytes or 0) + (f" of {size(one.content_bytes or 0)}" if one.encoded else "")
    return one.written_at or "", stored, one.receipt or "", line, odd


def _encoded_text(checkpoints: Sequence[VerifiedCheckpoint]) -> str:
    """Of the whole ones: a damaged one's blobs may not have been decoded."""
    encoded = [one for one in checkpoints if one.encoded and one.damage is None]
    if not encoded:
        return ""
    stored, plain = sum(one.size_bytes for one in encoded), sum(one.content_bytes for one in encoded)
    return f"; {len(encoded)} compressed, decoded and compared, {size(stored)} of {size(plain)}"


def _beat_rows(beat: Beat) -> list[tuple[str, str]]:
    age = "" if beat.age_seconds is None else f", {beat.age_seconds:.0f} s ago"
    rows = [
        ("heartbeat", f"{beat.state}{age}"),
        ("step", f"{'?' if beat.step is None else beat.step}/{'?' if beat.total_steps is None else beat.total_steps}"),
    ]
    if beat.loss is not None:
        rows.append(("loss", f"{beat.loss:g}"))
    if beat.permission is not None:
        rows.append(("permission", beat.permission))
    if beat.resumed is not None:
        rows.append(("resumed", f"at step {beat.resumed.get('step')}, {beat.resumed.get('resume')}"))
    if beat.saving:
        told = ", ".join(f"{name} {value}" for name, value in beat.saving.items() if value not in (None, "", 0))
        rows.append(("saving", told or "idle"))
    if beat.interval:
        rows.append(("interval", interval_text(beat.interval)))
    for site, kept in beat.retention.items():
        if kept:
            rows.append((f"kept at {site}", _retention_text(kept)))
    return rows


def interval_text(plan: Mapping[str, Any]) -> str:
    """A planned interval in one line."""
    return (
        f"every {plan['steps']} steps, {plan['seconds']:.3g} s, decided by {plan['bound']}; "
        f"expected goodput {plan['expected_goodput']:.2%}, loss per failure {plan['expected_lost_seconds']:.3g} s"
    )


def _retention_text(kept: Mapping[str, Any]) -> str:
    if kept.get("error"):
        return f"nothing retired: {kept['error']}"
    told = f"{kept.get('retained')} checkpoints, {kept.get('retired')} retired by this process"
    return f"{told}; missing blobs in {', '.join(kept['endangered'])}" if kept.get("endangered") else told


def _detail(detail: str | None) -> str:
    return f" ({detail})" if detail else ""
