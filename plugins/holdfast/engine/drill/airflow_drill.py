"""A drill of Airflow's own state, signed: however it ended, its evidence says what was measured.

The steps themselves are `holdfast.engine.vault.airflow_state.drilling`'s; here they become claims, with RTO and RPO.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from holdfast import __version__
from holdfast.engine.drill.airflow_journal import AirflowDrillJournal, Kind
from holdfast.engine.drill.conclude import keep_at
from holdfast.engine.drill.errors import DrillError
from holdfast.engine.drill.evidence import load_or_create_key, require_writable, write_evidence
from holdfast.engine.drill.interrupts import DrillInterrupted, interrupts
from holdfast.engine.drill.phases import new_drill_id
from holdfast.engine.drill.restore_claims import at_most, witnessed
from holdfast.engine.drill.restore_journal import Claim, RestoreStatus
from holdfast.engine.recovery.interface import Progress, ProgressSink, Rooms, ignore_progress
from holdfast.engine.vault.airflow_state.drilling import AirflowDrillReport, DrillStep
from holdfast.errors import HoldfastError, Refused

_TITLES: Mapping[str, tuple[str, str]] = {
    "read": ("What is restored can be read", "the inventory and the sealed keys, or a base backup that reaches it"),
    "keys": ("Airflow's keys open", "one of the escrow's recipients opens them"),
    "server": ("A fresh database server answers", "one of the drill's own"),
    "restore": ("The database is restored", "all of it"),
    "migrations": ("The installed Airflow finds every migration applied", "`airflow db check-migrations`"),
    "canary": ("Encrypted connections and variables decrypt", "every one, and at least one"),
    "counts": ("DAGs, runs, bundle versions and every table are as backed up", "the inventory's"),
    "database": ("It is Airflow's database", "its tables"),
    "reconcile": ("Nothing would run twice", "DAGs paused, what ran is to be scheduled again"),
    "run": ("A scheduler starts and runs a DAG", "a run that succeeds"),
}


@dataclass(frozen=True)
class AirflowObjectives:
    """What must be met; ``None``: it is measured, not judged."""

    rto_seconds: float | None = None
    rpo_seconds: float | None = None


@dataclass
class Seen:
    """What is known of a drill so far; it may be broken off.

    Args:
        source: facts of what is restored, for the journal; of a vault under ``vault``, see `about_vault`.
        taken_at: the point in time it is of.
    """

    started: float
    monotonic: Callable[[], float] = field(repr=False)
    source: dict[str, Any] = field(default_factory=dict)
    steps: list[DrillStep] = field(default_factory=list)
    taken_at: datetime | None = None
    rto_seconds: float | None = None

    def step(self, step: DrillStep) -> None:
        """Told each step when it is over."""
        self.steps.append(step)
        if step.name == "run" and step.outcome == "passed":
            self.rto_seconds = round(self.monotonic() - self.started, 6)


def run_airflow_drill(
    rooms: Rooms,
    work: Callable[[Seen], AirflowDrillReport],
    *,
    kind: Kind,
    steps: Sequence[str],
    objectives: AirflowObjectives,
    evidence_sites: Iterable[str],
    output: Path,
    asked_for: datetime | None = None,
    drill_id: str | None = None,
    progress: ProgressSink = ignore_progress,
) -> AirflowDrillJournal:
    """Run a drill, and sign what was measured, however it ended.

    Args:
        work: the drill. It begins with getting at what is restored, which is part of the recovery time, and tells what
            it sees.
        steps: names of all its steps.
        evidence_sites: whose buckets keep the evidence, beside ``output``.
        asked_for: the moment to go back to.
        drill_id: as `new_drill_id` makes it.

    Raises:
        ConfigError: the signing key or the output folder is wrong; nothing was done.
    """
    key = load_or_create_key(rooms.environ)  # a key that cannot sign is told now, not after the restore
    require_writable(output)
    drill_id = drill_id or new_drill_id(rooms.clock.now())
    started_at, seen = rooms.clock.now(), Seen(rooms.clock.monotonic(), rooms.clock.monotonic)
    report: AirflowDrillReport | None = None
    status: RestoreStatus = "interrupted"
    error: HoldfastError | None = None
    with interrupts() as signals:
        try:
            try:
                report = work(seen)
            finally:
                signals.held = True  # a second signal does not keep anything from being signed
            status = "completed"
        except (KeyboardInterrupt, DrillInterrupted) as interruption:
            told = str(interruption) or "KeyboardInterrupt"
            error = DrillError("the drill was interrupted", where=drill_id, found=told)
        except HoldfastError as failure:
            status, error = "aborted" if isinstance(failure, Refused) else "failed", failure
        except Exception as bug:
            status = "failed"
            error = DrillError("the drill met an error of its own", found=f"{type(bug).__name__}: {bug}")
            raise
        finally:
            journal = _journal(
                rooms, drill_id, kind, status, seen, report, error, started_at, steps, objectives, asked_for
            )
            paths = write_evidence(journal.as_document(), output, key)
            kept = keep_at(rooms, evidence_sites, drill_id, {path.name: path.read_bytes() for path in paths.all()})
            for site, outcome in kept.items():
                progress(Progress("evidence", "done" if outcome == "kept" else "failed", detail=f"{site}: {outcome}"))
    return journal


def _journal(
    rooms: Rooms,
    drill_id: str,
    kind: Kind,
    status: RestoreStatus,
    seen: Seen,
    report: AirflowDrillReport | None,
    error: HoldfastError | None,
    started_at: datetime,
    steps: Sequence[str],
    objectives: AirflowObjectives,
    asked_for: datetime | None,
) -> AirflowDrillJournal:
    taken_at = report.taken_at if report is not None else seen.taken_at
    rpo = None if taken_at is None else round(((asked_for or started_at) - taken_at).total_seconds(), 6)
    taken = {step.name: step for step in seen.steps}
    missing = "not reached" if error is None else f"not reached: {error.what}"
    every = [taken.get(name) or DrillStep(name, "unknown", 0.0, missing) for name in steps]
    claims, left_out = _claims(every, seen.rto_seconds, rpo, objectives, seen.source.get("vault"))
    return AirflowDrillJournal(
        drill_id=drill_id,
        kind=kind,
        status=status,
        claims=claims,
        not_claimed=left_out,
        objectives={"rto_seconds": objectives.rto_seconds, "rpo_seconds": objectives.rpo_seconds},
        rto_seconds=seen.rto_seconds,
        rpo_seconds=rpo,
        taken_at=taken_at,
        asked_for=asked_for,
        source=seen.source,
        database=None if report is None else report.database,
        airflow=None if report is None else report.airflow,
        steps=[
            {
                "name": step.name,
                "outcome": step.outcome,
                "seconds": round(step.seconds, 6),
                "reason": step.reason,
                "facts": step.facts,
            }
            for step in every
        ],
        clock_source={
            "durations": "the monotonic clock of one host",
            "timestamps": "the host's wall clock, UTC",
            "age": "of a dump by the clock of the host that took it; of a replayed change by the cluster's",
        },
        versions={"holdfast": __version__, "python": platform.python_version(), "system": platform.platform()},
        error=None if error is None else error.as_dict(),
        started_at=started_at,
        ended_at=rooms.clock.now(),
        run_by=rooms.holder,
    )


def _claims(
    steps: Sequence[DrillStep],
    rto: float | None,
    rpo: float | None,
    objectives: AirflowObjectives,
    vault: Mapping[str, Any] | None,
) -> tuple[list[Claim], list[str]]:
    left_out = ["That it was restored in another cloud: the drill restores on the machine it runs on."]
    found = [
        Claim(
            name=step.name,
            title=_TITLES[step.name][0],
            objective=_TITLES[step.name][1],
            measured=step.reason,
            holds={"passed": True, "failed": False, "unknown": None}[step.outcome],
        )
        for step in steps
    ]
    if vault is not None:
        claim = witnessed(vault)
        if claim is not None:
            found.append(claim)
        else:
            left_out.append("The vault has no witnesses: that it was not put back to an older state cannot be told.")
    for name, title, measured, objective in (
        ("rto_met", "RTO", rto, objectives.rto_seconds),
        ("rpo_met", "RPO", rpo, objectives.rpo_seconds),
    ):
        if objective is not None:
            found.append(at_most(name, title, measured, objective))
        else:
            left_out.append(f"{title}: it was measured, and the topology has no objective for it (`airflow`).")
    return found, left_out
