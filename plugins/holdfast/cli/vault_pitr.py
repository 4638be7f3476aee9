"""``holdfast vault pitr``: Airflow's database at any moment, by pgBackRest beside its cluster."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from holdfast.cli.output import JsonOption, TopologyOption, console, print_json, reports_errors
from holdfast.cli.vault_drill import ExecutableOption, OutputOption, end_airflow_drill, tell_step
from holdfast.cli.vault_options import FORMATS, VaultOption, choose_vault, utc
from holdfast.cli.vault_tables import say
from holdfast.engine.pipeline.vaults import airflow_recovery as recovery
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.airflow_state.pitr import BackRestBackup

app = typer.Typer(
    help="Point-in-time recovery of Airflow's database: configure, check, backup, status, restore, drill.",
    no_args_is_help=True,
    epilog="Exit codes: 0 done, 1 failed, 2 bad input, not configured, or pgBackRest is not installed.",
)

AtOption = Annotated[
    datetime | None,
    typer.Option(
        "--at", help="The moment to go back to, UTC; by default as far as the log goes.", formats=FORMATS, callback=utc
    ),
]


class Kind(StrEnum):
    AUTO = "auto"
    FULL = "full"
    DIFF = "diff"
    INCR = "incr"


@app.command("configure")
@reports_errors
def configure(
    only_restores: Annotated[
        bool, typer.Option("--only-restores", help="The cluster does not run on this machine; it restores, and drills.")
    ] = False,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write pgBackRest's configuration as `airflow.recovery` of the topology says, and tell PostgreSQL's settings.

    The file holds the repository's keys and passphrase, and is readable for the cluster's user alone.

    Exit codes: 0 written, 2 bad input, keys that expire, or pgBackRest is not installed.
    """
    runtime = Runtime.from_environment(topology)
    done = recovery.configured(runtime, only_restores=only_restores)
    if as_json:
        print_json({"config": str(done.config), "site": done.site, "settings": dict(done.settings)})
        return
    say(f"{done.config}: the repository is at {done.site}")
    if done.settings:
        say("PostgreSQL needs, in postgresql.conf, and a restart; then `holdfast vault pitr check`:")
    for name, value in done.settings.items():
        say(f"  {name} = '{value}'")


@app.command("check")
@reports_errors
def check(topology: TopologyOption = None, as_json: JsonOption = False) -> None:
    """Archive a piece of log now and wait until it lies in the repository; begin the repository where there is none.

    Exit codes: 0 it arrived, 1 it did not, 2 not configured.
    """
    runtime = Runtime.from_environment(topology)
    _show(runtime, recovery.checked(runtime), as_json)


@app.command("backup")
@reports_errors
def backup(
    kind: Annotated[
        Kind, typer.Option("--type", help="auto: full when the last is `full_every_days` old, else incremental.")
    ] = Kind.AUTO,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a base backup. From the second after it on every moment can be reached.

    Exit codes: 0 made, 1 it failed, 2 not configured.
    """
    runtime = Runtime.from_environment(topology)
    made = recovery.backed_up(runtime, kind.value)
    if as_json:
        print_json(_facts(made, runtime.clock.now()))
    else:
        say(f"{made.label}: {made.kind}, {made.size_bytes} bytes, {made.stored_bytes} of them new in the repository")


@app.command("status")
@reports_errors
def status(topology: TopologyOption = None, as_json: JsonOption = False) -> None:
    """What the repository has: base backups and the newest piece of log.

    Exit codes: 0 there is a base backup, 1 there is none, or the repository does not answer; 2 not configured.
    """
    runtime = Runtime.from_environment(topology)
    found = recovery.status_of(runtime)
    _show(runtime, found, as_json)
    if not found.backups:
        raise typer.Exit(1)


@app.command("restore")
@reports_errors
def restore(
    folder: Annotated[Path, typer.Argument(help="Empty, and its user's who will run the server there.")],
    at: AtOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore the cluster into an empty folder. A server started there replays the log up to the moment.

    It archives nothing until you configure it. Reconcile the database before a scheduler starts:
    docs/how-to/back-up-airflow.md.

    Exit codes: 0 restored, 1 it failed or no base backup reaches that moment, 2 bad input or not configured.
    """
    runtime = Runtime.from_environment(topology)
    recovery.recovered(runtime, folder.absolute(), at=at)
    if as_json:
        print_json({"folder": str(folder.absolute()), "at": at})
    else:
        say(f"{folder}: restored; start a PostgreSQL server of the same version on it, and it replays the log")


@app.command("drill")
@reports_errors
def drill(
    at: AtOption = None,
    executable: ExecutableOption = None,
    output: OutputOption = None,
    vault: VaultOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore the cluster into a server of its own, let a scheduler run a DAG on it, time it, and sign it.

    Airflow's keys come out of the escrow beside the vault's newest backup of Airflow. Touches nothing that lives, and
    archives nothing. `holdfast drill verify` checks the evidence.

    Exit codes: 0 every claim holds, 1 one does not or could not be judged, or it failed; 2 not configured,
    130 interrupted.
    """
    from holdfast.engine.drill.phases import new_drill_id
    from holdfast.engine.pipeline.vaults.airflow_drilling import drill_recovery

    runtime = Runtime.from_environment(topology)
    name = vault if vault is not None or len(runtime.topology.vaults) != 1 else choose_vault(runtime, None)
    drill_id = new_drill_id(runtime.clock.now())
    folder = output or Path("evidence") / drill_id
    journal = drill_recovery(
        runtime,
        output=folder,
        at=at,
        vault=name,
        executable=executable,
        drill_id=drill_id,
        progress=tell_step,
    )
    end_airflow_drill(journal, folder, as_json)


def _show(runtime: Runtime, found: recovery.RecoveryStatus, as_json: bool) -> None:
    now = runtime.clock.now()
    facts = [_facts(one, now) for one in found.backups]
    if as_json:
        print_json({"site": found.site, "stanza": found.stanza, "newest_log": found.newest_log, "backups": facts})
        return
    table = Table("base backup", "", "complete", "age", "bytes", "new", title=f"{found.stanza} at {found.site}")
    for one, fact in zip(found.backups, facts, strict=True):
        when, age = f"{one.stopped_at:%Y-%m-%d %H:%M:%S}", f"{fact['age_seconds']:.0f} s"
        table.add_row(one.label, one.kind, when, age, str(one.size_bytes), str(one.stored_bytes))
    console.print(table)
    say(f"The newest piece of log is {found.newest_log or 'none'}")


def _facts(one: BackRestBackup, now: datetime) -> dict[str, object]:
    return {
        "backup": one.label,
        "type": one.kind,
        "complete_at": one.stopped_at,
        "age_seconds": (now - one.stopped_at).total_seconds(),
        "size_bytes": one.size_bytes,
        "stored_bytes": one.stored_bytes,
    }
