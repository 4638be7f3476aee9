"""``holdfast vault airflow``: Airflow's own state back for real."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.output import JsonOption, TopologyOption, errors, print_json, reports_errors
from holdfast.cli.vault_options import BackupOption, FromOption, VaultOption, choose_vault
from holdfast.cli.vault_tables import say
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.engine.vault.airflow_state.reconcile import Reconciled

app = typer.Typer(help="Airflow's own state, for real: restore, reconcile, keys.", no_args_is_help=True)


UrlOption = Annotated[
    str, typer.Option("--url-variable", help="The environment variable that holds the database's URL.")
]


@app.command("restore")
@reports_errors
def restore(
    url_variable: UrlOption,
    backup: BackupOption = None,
    vault: VaultOption = None,
    site: FromOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore Airflow's database into an empty one, and make it fit for a scheduler: every DAG is paused.

    Of the kind that was backed up: an empty PostgreSQL database, or an SQLite file that is not there. First make sure
    that the Airflow that was lost can do no more.

    An SQLite file gets its name when it is fit. A PostgreSQL database that was restored and not reconciled, because the
    command failed or was ended in between, cannot be written by its user until `vault airflow reconcile`; this command
    says so when it fails, and when it is run again.

    Exit codes: 0 restored, 1 it failed and the database is as empty as it was, or restored and not reconciled as said;
    2 bad input, 3 it is not empty, or the wrong key; 4 damaged or rolled back.
    """
    from holdfast.engine.pipeline.vaults.airflow_restoring import restored_airflow

    runtime = Runtime.from_environment(topology)
    name = choose_vault(runtime, vault)
    done = restored_airflow(runtime, name, _url(runtime, url_variable), backup=backup, vault_site=site)
    if as_json:
        print_json(
            {
                "vault": name,
                **done.backup.to_summary(),
                "airflow": done.inventory.airflow,
                "counts": done.inventory.database.counts,
                "paused": done.reconciled.paused,
                "rescheduled": done.reconciled.rescheduled,
            }
        )
        return
    say(f"Backup {done.backup.backup_id[:12]} of {done.backup.taken_at:%Y-%m-%d %H:%M:%SZ} is restored")
    _say_reconciled(done.reconciled)
    say(f"It was Airflow {done.inventory.airflow or 'of an unknown version'}; its keys: `holdfast vault airflow keys`")


@app.command("reconcile")
@reports_errors
def reconcile(url_variable: UrlOption, topology: TopologyOption = None, as_json: JsonOption = False) -> None:
    """Make a database fit for a scheduler that was restored otherwise, e.g. by `vault pitr restore`.

    Every DAG is paused; what was queued or running will be scheduled again, without that counting as a retry. It also
    ends what `vault airflow restore` left half done in PostgreSQL: its user can write again.

    Exit codes: 0 done, 1 it cannot be reached, 2 bad input.
    """
    from holdfast.engine.vault.airflow_state.reconcile import reconcile_airflow_database

    done = reconcile_airflow_database(_url(Runtime.from_environment(topology), url_variable))
    if as_json:
        print_json({"paused": done.paused, "rescheduled": done.rescheduled})
    else:
        _say_reconciled(done)


@app.command("keys")
@reports_errors
def keys(
    file: Annotated[Path, typer.Argument(help="Written as JSON, readable for its owner only; must not exist.")],
    backup: BackupOption = None,
    vault: VaultOption = None,
    site: FromOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open Airflow's keys out of the escrow beside a backup, into a file. They are never printed.

    Exit codes: 0 written, 2 bad input or the file is there, 3 no recipient at hand opens them.
    """
    from holdfast.engine.pipeline.vaults.airflow_restoring import opened_keys, written_keys

    runtime = Runtime.from_environment(topology)
    found = opened_keys(runtime, choose_vault(runtime, vault), backup=backup, vault_site=site)
    written_keys(found, file)
    if as_json:
        print_json({"file": str(file), "keys": list(found.names)})
    else:
        say(f"{file}: {', '.join(found.names)}")
    errors.print("Whoever reads this file and the database has every password in it", markup=False)


def _url(runtime: Runtime, variable: str) -> str:
    url = runtime.environ.get(variable)
    if not url:
        raise ConfigError(
            "the database is not named", where=f"${variable}", expected="its URL, as SQLAlchemy writes it"
        )
    return url


def _say_reconciled(done: Reconciled) -> None:
    said = f"{done.paused} DAGs are paused, {done.rescheduled} task instances"
    say(f"{said} will be scheduled again once their DAG is unpaused")
