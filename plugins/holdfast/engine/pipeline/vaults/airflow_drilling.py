"""Drills of Airflow's own state: from a dump in a vault, or to a moment by its log; signed either way."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path

from holdfast.engine.drill.airflow_drill import AirflowObjectives, Seen, run_airflow_drill
from holdfast.engine.drill.airflow_journal import AirflowDrillJournal
from holdfast.engine.drill.restore_subject import about_vault, place_of
from holdfast.engine.pipeline.vaults.airflow import airflow_backup, escrow_recipients, installation
from holdfast.engine.pipeline.vaults.airflow_recovery import on_this_machine, recovery_of
from holdfast.engine.pipeline.vaults.airflow_restoring import opened_keys
from holdfast.engine.pipeline.vaults.opening import opened, places_of
from holdfast.engine.recovery.interface import Progress, ProgressSink, ignore_progress
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.airflow_state import drill, pitr_drill
from holdfast.engine.vault.airflow_state.command import AirflowCommand
from holdfast.engine.vault.airflow_state.drilling import AirflowDrillReport, DrillOptions, DrillStep
from holdfast.errors import ConfigError


def drill_airflow(
    runtime: Runtime,
    vault: str,
    *,
    output: Path,
    backup: str | None = None,
    executable: Path | None = None,
    vault_site: str | None = None,
    drill_id: str | None = None,
    progress: ProgressSink = ignore_progress,
) -> AirflowDrillJournal:
    """Restore a backup of Airflow into a fresh database, let a scheduler run a DAG on it, and sign what was measured.

    Args:
        output: folder of the evidence; it is kept in the buckets of the vault and its witnesses as well.
        drill_id: as `new_drill_id` makes it.

    Raises:
        ConfigError: there is no `airflow` to run, or no key to sign with; nothing was done and nothing is written.
    """
    command = _installation(runtime, executable)
    settings = runtime.topology.vault(vault)
    hours, wanted = settings.rpo_hours, runtime.topology.airflow
    own = None if hours is None else hours * 3600

    def work(seen: Seen) -> AirflowDrillReport:
        seen.source["vault"] = place_of(runtime.topology, vault_site or settings.site)
        found = opened(runtime, vault, "reader", site=vault_site)
        seen.source["vault"] |= about_vault(found, None)
        chosen = airflow_backup(found, backup)
        seen.source |= {"backup": chosen.to_summary()}
        seen.source["vault"] |= about_vault(found, chosen)
        seen.taken_at = chosen.taken_at
        return drill.restore_drill_airflow(
            found,
            chosen,
            command=command,
            escrow_recipients=escrow_recipients(runtime, vault),
            options=_options(seen, progress),
            clock=runtime.clock,
        )

    return run_airflow_drill(
        runtime,
        work,
        kind="airflow-restore-drill",
        steps=drill.STEPS,
        objectives=AirflowObjectives(wanted.rto_seconds, wanted.rpo_seconds if own is None else own),
        evidence_sites=dict.fromkeys((*places_of(runtime, vault), *settings.witnesses)),
        output=output,
        drill_id=drill_id,
        progress=progress,
    )


def _options(seen: Seen, progress: ProgressSink) -> DrillOptions:
    """Steps told to a drill's journal and to whoever watches."""

    def stepped(step: DrillStep) -> None:
        seen.step(step)
        progress(Progress(step.name, "done" if step.outcome == "passed" else "failed", step.seconds, step.reason))

    return DrillOptions(progress=lambda name: progress(Progress(name, "begun")), stepped=stepped)


def drill_recovery(
    runtime: Runtime,
    *,
    output: Path,
    at: datetime | None = None,
    vault: str | None = None,
    executable: Path | None = None,
    drill_id: str | None = None,
    progress: ProgressSink = ignore_progress,
) -> AirflowDrillJournal:
    """Restore the cluster into a server of the drill's own, let a scheduler run a DAG on it, and sign the measures.

    Args:
        output: folder of the evidence; it is kept at the repository's site as well.
        at: the moment to go back to; by default as far as the log goes.
        vault: whose newest backup of Airflow has its keys in escrow; without one the canary stays unknown.
        drill_id: as `new_drill_id` makes it.

    Raises:
        ConfigError, MissingProgram: nothing was done and nothing is written.
    """
    settings, backrest = recovery_of(runtime), on_this_machine(runtime)
    command, wanted = _installation(runtime, executable), runtime.topology.airflow

    def work(seen: Seen) -> AirflowDrillReport:
        seen.source |= {"repository": place_of(runtime.topology, settings.site), "stanza": settings.stanza}
        report = pitr_drill.pitr_drill_airflow(
            backrest,
            command=command,
            database=settings.database,
            superuser=settings.superuser,
            at=at,
            keys=None if vault is None else partial(opened_keys, runtime, vault),
            options=_options(seen, progress),
            clock=runtime.clock,
        )
        seen.source |= {"base_backup": report.backup_id or None, "escrow": vault}
        return report

    return run_airflow_drill(
        runtime,
        work,
        kind="airflow-pitr-drill",
        steps=pitr_drill.STEPS,
        objectives=AirflowObjectives(wanted.rto_seconds, wanted.rpo_seconds),
        evidence_sites=[settings.site],
        output=output,
        asked_for=at,
        drill_id=drill_id,
        progress=progress,
    )


def _installation(runtime: Runtime, executable: Path | None) -> AirflowCommand:
    """As `installation`. Raises ConfigError: there is none."""
    command = installation(runtime, executable)
    if command is None:
        raise ConfigError("no `airflow` was found", expected="one beside this interpreter or in the path", found="none")
    return command
