"""``holdfast vault drill``: restored for proof, in another cloud, timed, and signed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import vault_tables as show
from holdfast.cli.groups import GroupOption, choose_group
from holdfast.cli.output import JsonOption, TopologyOption, errors, print_json, reports_errors
from holdfast.cli.vault_options import AtOption, BackupOption, FromOption, VaultOption, choose_vault
from holdfast.engine.runtime import Runtime

if TYPE_CHECKING:
    from holdfast.engine.drill.airflow_journal import AirflowDrillJournal
    from holdfast.engine.recovery.interface import Progress

app = typer.Typer(help="Restore drills: run, airflow.", no_args_is_help=True)

ExecutableOption = Annotated[
    Path | None, typer.Option("--airflow", help="The installation's program; by default the one at hand.")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", help="Folder for the evidence; default ./evidence/<drill id>.")
]


@app.command("run")
@reports_errors
def run(
    subject: Annotated[
        str | None, typer.Option("--subject", help="A dataset or model; by default the group's first dataset.")
    ] = None,
    to_site: Annotated[
        str | None, typer.Option("--to-site", help="Where to; by default the first site in another cloud.")
    ] = None,
    backup: BackupOption = None,
    at: AtOption = None,
    output: OutputOption = None,
    group: GroupOption = None,
    vault: VaultOption = None,
    site: FromOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore a backup into another cloud, check and time it, remove it again, and sign what was measured.

    Every object's bytes, the dataset's expectations, its rows and schema, the model's answers, RTO and RPO.
    `holdfast drill verify` checks the evidence.

    Ctrl-C (and SIGTERM) removes what was restored and signs an interrupted drill, which is no pass.

    Exit codes: 0 every claim holds, 1 one does not, or it failed; 2 bad input, 3 refused by a rule, 130 interrupted.
    """
    from holdfast.engine.drill.phases import new_drill_id
    from holdfast.engine.pipeline.vaults.drilling import drill_restore

    runtime = Runtime.from_environment(topology)
    team = choose_group(runtime, group)
    name = choose_vault(runtime, vault, group=team)
    what = subject or next(iter(runtime.topology.group(team).datasets), "")
    drill_id = new_drill_id(runtime.clock.now())
    folder = output or Path("evidence") / drill_id

    journal = drill_restore(
        runtime,
        team,
        what,
        name,
        output=folder,
        backup=backup,
        at=at,
        target_site=to_site,
        vault_site=site,
        drill_id=drill_id,
        progress=tell_step,
    )
    print_json(journal.as_document()) if as_json else show.print_restore_drill(journal, folder)
    if journal.status == "interrupted":
        raise typer.Exit(130)
    if not journal.green:
        raise typer.Exit(3 if journal.verdict == "aborted" else 1)


@app.command("airflow")
@reports_errors
def airflow(
    backup: BackupOption = None,
    executable: ExecutableOption = None,
    output: OutputOption = None,
    vault: VaultOption = None,
    site: FromOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore Airflow's state into a fresh database, let a scheduler run a DAG on it, time it, and sign it.

    Touches nothing that lives. `holdfast drill verify` checks the evidence.

    Exit codes: 0 every claim holds, 1 one does not or could not be judged, or it failed; 2 bad input, 3 refused.
    """
    from holdfast.engine.drill.phases import new_drill_id
    from holdfast.engine.pipeline.vaults.airflow_drilling import drill_airflow

    runtime = Runtime.from_environment(topology)
    name = choose_vault(runtime, vault)
    drill_id = new_drill_id(runtime.clock.now())
    folder = output or Path("evidence") / drill_id
    journal = drill_airflow(
        runtime,
        name,
        output=folder,
        backup=backup,
        executable=executable,
        vault_site=site,
        drill_id=drill_id,
        progress=tell_step,
    )
    end_airflow_drill(journal, folder, as_json)


def tell_step(seen: Progress) -> None:
    """One line of a drill's progress."""
    errors.print(f"{seen.step}: {seen.phase} {seen.detail or ''}".rstrip(), markup=False)


def end_airflow_drill(journal: AirflowDrillJournal, folder: Path, as_json: bool) -> None:
    """Show it, and exit as it ended."""
    print_json(journal.as_document()) if as_json else show.print_airflow_drill(journal, folder)
    if not journal.green:
        raise typer.Exit(3 if journal.verdict == "aborted" else 1)
