"""Airflow's own state: backed up into a vault, and restored in a drill, from outside of Airflow."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from holdfast.engine.pipeline.vaults.backing_up import Made, Tell, back_up_source
from holdfast.engine.pipeline.vaults.opening import recipient_from, vault_store
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.airflow_state.command import AirflowCommand
from holdfast.engine.vault.airflow_state.keys import AirflowKeys, Escrow, escrow_keys
from holdfast.engine.vault.airflow_state.source import airflow_source
from holdfast.engine.vault.backups import Backup, find_backup
from holdfast.engine.vault.recipients import Recipient
from holdfast.engine.vault.vault import Vault
from holdfast.errors import ConfigError

#: Name of the series of backups.
SERIES = "airflow"
URL_VARIABLE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


def airflow_backup(vault: Vault, wanted: str | None) -> Backup:
    """A backup of the series; the newest is of Airflow, whatever else somebody backed up under its name.

    Raises as `find_backup`.
    """
    return find_backup(vault, wanted, source=SERIES, fits=lambda one: one.kind == "stream" and "alembic" in one.origin)


def escrow_recipients(runtime: Runtime, vault: str) -> list[Recipient]:
    """Who can open Airflow's keys, as the topology says. Raises ConfigError."""
    texts = runtime.topology.vault(vault).airflow_escrow
    return [recipient_from(runtime, text, f"vaults.{vault}.airflow_escrow") for text in texts]


def installation(runtime: Runtime, executable: Path | None = None) -> AirflowCommand | None:
    """The Airflow beside this interpreter or in the path; ``None``: there is none.

    Raises:
        ConfigError: the one that was named is none.
    """
    if executable is not None:
        if not executable.is_file():
            raise ConfigError(
                "there is no such program", where=str(executable), expected="an `airflow`", found="nothing"
            )
        return AirflowCommand(executable, dict(runtime.environ))
    beside = Path(sys.executable).parent / "airflow"
    found = str(beside) if beside.is_file() else shutil.which("airflow", path=runtime.environ.get("PATH"))
    return None if found is None else AirflowCommand(Path(found), dict(runtime.environ))


def back_up_airflow(
    runtime: Runtime,
    vault: str,
    *,
    url: str | None = None,
    executable: Path | None = None,
    tier: str = "daily",
    progress: Tell | None = None,
    say: Callable[[str], object] = lambda _line: None,
) -> Made:
    """Back up Airflow's metadata database and what a dump of it lacks.

    Args:
        url: of the database itself; by default what ``AIRFLOW__DATABASE__SQL_ALCHEMY_CONN`` holds.
        executable: of the installation; by default the `airflow` beside this interpreter or in the path.
        say: told what is left out.

    Raises:
        ConfigError: no URL.
        SourceFailed: the dump failed or is short; no backup was made.
        Refused: who opens the escrow would open the vault's content too.
    """
    database = url or runtime.environ.get(URL_VARIABLE)
    if not database:
        raise ConfigError(
            "the metadata database is not named",
            where=f"${URL_VARIABLE}",
            expected="its URL, as SQLAlchemy writes it",
            found="nothing",
            fix="Set it, or give --url-variable: backups go to the database directly, not through Airflow",
        )
    command = installation(runtime, executable)
    recipients = escrow_recipients(runtime, vault)
    escrow: Escrow | None = None
    if recipients:
        keys = AirflowKeys.from_environment(runtime.environ) if command is None else AirflowKeys.from_command(command)
        escrow = escrow_keys(keys, recipients, apart_from=[vault_store(runtime, vault)])
    else:
        say(f"Airflow's keys are not in the backup: vaults.{vault}.airflow_escrow names nobody who could open them")
    if command is None:
        say("No `airflow` was found: its configuration and what is installed are not in the backup")
    with airflow_source(database, name=SERIES, command=command, escrow=escrow, clock=runtime.clock) as source:
        return back_up_source(runtime, vault, source, tier=tier, progress=progress)
