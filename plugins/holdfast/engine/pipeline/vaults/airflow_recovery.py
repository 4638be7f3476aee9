"""Point-in-time recovery of Airflow's database, as the topology says: pgBackRest beside the cluster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from holdfast.engine.config import Cloud, Connection, PointInTimeRecovery
from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.objectstore.connect import access_from_connection
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.airflow_state.pitr import (
    BackRestBackup,
    BackupType,
    Cluster,
    PgBackRest,
    base_for,
)
from holdfast.engine.vault.airflow_state.pitr_site import repository_at
from holdfast.engine.vault.airflow_state.scratch import server_user
from holdfast.errors import ConfigError

#: An idle cluster hands its log over this often, so much may be lost of an idle hour.
_ARCHIVE_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Configured:
    """What was written.

    Args:
        settings: what the cluster's ``postgresql.conf`` needs; empty on a machine that only restores.
    """

    config: Path
    site: str
    settings: Mapping[str, str]


@dataclass(frozen=True)
class RecoveryStatus:
    """What the repository has.

    Args:
        backups: oldest first.
        newest_log: name of the newest piece of log.
    """

    site: str
    stanza: str
    backups: tuple[BackRestBackup, ...]
    newest_log: str | None


def recovery_of(runtime: Runtime) -> PointInTimeRecovery:
    """The topology's settings. Raises ConfigError: there are none."""
    found = runtime.topology.airflow.recovery
    if found is None:
        raise ConfigError(
            "point-in-time recovery of Airflow's database is not described",
            where=f"{runtime.topology.path}: airflow.recovery",
            expected="where its repository lies",
            found="nothing",
            fix="docs/how-to/back-up-airflow.md",
        )
    return found


def backrest_of(runtime: Runtime) -> PgBackRest:
    """pgBackRest as it is configured on this machine. Raises ConfigError."""
    settings = recovery_of(runtime)
    return PgBackRest(settings.stanza, Path(settings.config_file), user=_system_user(settings))


def _system_user(settings: PointInTimeRecovery) -> str | None:
    if os.geteuid() != 0:
        return None
    if settings.system_user is not None:
        return settings.system_user
    folder = Path(settings.data_folder)
    # A machine that only restores has no cluster; the server that is restored cannot be root's.
    return folder.owner() if folder.exists() else server_user()


def configured(runtime: Runtime, *, only_restores: bool = False) -> Configured:
    """Write pgBackRest's configuration, with the repository's keys and passphrase, for its user alone.

    Args:
        only_restores: this machine has no cluster that is backed up; it restores, and drills.

    Raises:
        ConfigError, MissingProgram: nothing was written.
    """
    settings, backrest = recovery_of(runtime), backrest_of(runtime)
    backrest.require()
    key_file = backrest.config.with_suffix(".key.json")
    found = repository_at(
        settings.site,
        runtime.topology.site(settings.site),
        _access(runtime, settings),
        prefix=settings.prefix,
        key_file=key_file,
    )
    repository = found.repository.encrypted(_passphrase(runtime, settings))
    cluster = Cluster(
        Path(settings.data_folder),
        settings.port,
        Path(settings.socket_folder) if settings.socket_folder else None,
        settings.superuser,
    )
    work = Path(settings.work_folder)
    try:
        backrest.config.parent.mkdir(parents=True, exist_ok=True)
        _make_work_folder(work, backrest.user)
        if found.key_file is not None:
            backrest.write_private(key_file, found.key_file)
        here = None if only_restores else cluster
        backrest.write_config(repository, here, work=work, keep_full=settings.keep_full, options=settings.options)
    except OSError as error:
        raise ConfigError(
            "pgBackRest's configuration cannot be written",
            where=str(error.filename or backrest.config),
            expected="a folder this user may write to",
            found=str(error.strerror),
            fix="Run it as root or as the cluster's user, or set airflow.recovery.config_file and .work_folder",
        ) from None
    told = {
        "archive_mode": "on",
        "archive_command": backrest.archive_command,
        "archive_timeout": str(_ARCHIVE_TIMEOUT_SECONDS),
        "wal_level": "replica",
    }
    return Configured(backrest.config, settings.site, {} if only_restores else told)


def _make_work_folder(work: Path, user: str | None) -> None:
    if work.exists():
        return
    work.mkdir(parents=True, mode=0o700)
    if user is not None:
        shutil.chown(work, user)


def _access(runtime: Runtime, settings: PointInTimeRecovery) -> StoreAccess:
    site = runtime.topology.site(settings.site)
    if site.cloud is Cloud.LOCAL:
        return StoreAccess()
    if settings.connection is None:
        found = runtime.access(settings.site)
        return access_from_connection(site, found) if isinstance(found, Connection) else found
    return access_from_connection(site, runtime.connections.get(settings.connection))


def _passphrase(runtime: Runtime, settings: PointInTimeRecovery) -> str:
    kind, _, rest = settings.passphrase.partition(":")
    found: str | None
    if kind == "env":
        found = runtime.environ.get(rest)
    else:
        try:
            found = runtime.topology.beside(rest).read_text(encoding="utf-8")
        except (OSError, ValueError):
            found = None
    text = (found or "").strip()
    if len(text) < 16 or "\n" in text:
        raise ConfigError(
            "the repository's passphrase cannot be used",
            where=f"airflow.recovery.passphrase: {settings.passphrase}",
            expected="one line of 16 characters and more",
            found="nothing that can be read" if not text else "another form",
            fix="Make one with `openssl rand -hex 32`, and keep a copy where the escrow's recipients keep theirs",
        )
    return text


def checked(runtime: Runtime) -> RecoveryStatus:
    """Make the stanza where it is not there yet, archive a piece of log now, and wait until the repository has it.

    Raises CommandFailed, MissingProgram, ConfigError.
    """
    backrest = on_this_machine(runtime)
    backrest.create()
    backrest.check()
    return _status(runtime, backrest)


#: `auto` is of Holdfast's, the others are pgBackRest's.
Kind = BackupType | Literal["auto"]
_KINDS: Mapping[str, Kind] = {"auto": "auto", "full": "full", "diff": "diff", "incr": "incr"}


def kind_of(text: str) -> Kind:
    """A kind of base backup by its name. Raises ConfigError."""
    if text not in _KINDS:
        raise ConfigError("unknown kind of base backup", expected=", ".join(_KINDS), found=repr(text))
    return _KINDS[text]


def backed_up(runtime: Runtime, kind: Kind = "auto") -> BackRestBackup:
    """Make a base backup.

    Args:
        kind: ``auto``: full when the last full one is `full_every_days` old, or there is none, else incremental.

    Raises:
        CommandFailed, MissingProgram, ConfigError.
    """
    backrest = on_this_machine(runtime)
    if kind != "auto":
        return backrest.back_up(kind)
    every = timedelta(days=recovery_of(runtime).full_every_days)
    full = [one.stopped_at for one in backrest.backups() if one.kind == "full"]
    due = not full or runtime.clock.now() - max(full) >= every
    return backrest.back_up("full" if due else "incr")


def status_of(runtime: Runtime) -> RecoveryStatus:
    """What the repository has. Raises CommandFailed, MissingProgram, ConfigError."""
    return _status(runtime, on_this_machine(runtime))


def recovered(runtime: Runtime, folder: Path, *, at: datetime | None = None) -> None:
    """Restore the cluster into an empty folder of its user's; a server started there replays the log up to then.

    Raises CommandFailed, MissingProgram, ConfigError.
    """
    backrest = on_this_machine(runtime)
    base_for(backrest.backups(), at, backrest.stanza)
    backrest.restore(folder, at=at)


def _status(runtime: Runtime, backrest: PgBackRest) -> RecoveryStatus:
    return RecoveryStatus(recovery_of(runtime).site, backrest.stanza, tuple(backrest.backups()), backrest.newest_log())


def on_this_machine(runtime: Runtime) -> PgBackRest:
    """As it was configured. Raises MissingProgram, ConfigError: it is not installed, or not configured."""
    backrest = backrest_of(runtime)
    backrest.require()
    if not backrest.config.is_file():
        raise ConfigError(
            "pgBackRest is not configured on this machine",
            where=str(backrest.config),
            expected="its configuration",
            found="nothing",
            fix="`holdfast vault pitr configure`, with --only-restores where the cluster does not run",
        )
    return backrest
