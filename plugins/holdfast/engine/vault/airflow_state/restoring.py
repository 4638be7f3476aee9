"""The metadata database out of a backup: streamed from the vault into an empty database, all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.engine.vault.airflow_state.children import Child
from holdfast.engine.vault.airflow_state.holding import hold, is_held, release_empty, writable
from holdfast.engine.vault.airflow_state.inventory import Inventory, parse_inventory
from holdfast.engine.vault.airflow_state.programs import PostgresPrograms, find_programs
from holdfast.engine.vault.airflow_state.reconcile import Reconciled, reconcile, reconcile_airflow_database
from holdfast.engine.vault.airflow_state.sessions import PostgresSession, SqliteSession
from holdfast.engine.vault.airflow_state.source import DUMPS, INVENTORY, KEYS
from holdfast.engine.vault.airflow_state.urls import DatabaseUrl, PostgresUrl, SqliteUrl, parse_url
from holdfast.engine.vault.backups import Backup
from holdfast.engine.vault.errors import CommandFailed
from holdfast.engine.vault.restore import RestoreOptions, Target, restore_backup
from holdfast.engine.vault.targets import FolderTarget
from holdfast.engine.vault.tree import TreeRow
from holdfast.engine.vault.vault import Vault
from holdfast.errors import ConfigError, Refused

#: What to do about a database that is full and was not reconciled.
RECONCILE = "Run `holdfast vault airflow reconcile` before anything of Airflow is started"
_MOST_BYTES = 64 * 1024 * 1024


class NotReconciled(CommandFailed):
    """A database was restored, and DAGs in it are not paused yet; its user cannot write by default."""


@dataclass(frozen=True)
class Beside:
    """What lies beside a dump.

    Args:
        keys: sealed, see `keys.open_escrow`; ``None`` where they were not put in escrow.
    """

    inventory: Inventory
    keys: bytes | None = field(repr=False)


def read_beside(vault: Vault, backup: Backup) -> Beside:
    """The inventory and the sealed keys of a backup.

    Raises:
        Damaged, NotEntitled: as `restore_backup`.
        ConfigError: it is no backup of Airflow.
    """
    inventory = parse_inventory(_object(vault, backup, INVENTORY), f"{vault.name}: {backup.backup_id}/{INVENTORY}")
    return Beside(inventory, None if inventory.escrow is None else _object(vault, backup, KEYS))


def _object(vault: Vault, backup: Backup, path: str) -> bytes:
    target = _Memory()
    restore_backup(vault, backup, target, RestoreOptions(paths=(path,)))
    _require(vault, backup, path, there=path in target.found)
    return target.found[path]


def _require(vault: Vault, backup: Backup, path: str, *, there: bool) -> None:
    if not there:
        raise ConfigError(
            "this is no backup of Airflow",
            where=f"{vault.name}: {backup.backup_id}",
            expected=f"an object {path}",
            found=f"none, in a {backup.kind} of {backup.source!r}",
            fix="Name another with --backup; `holdfast vault list` shows what there is",
        )


@dataclass(frozen=True)
class RestoredDatabase:
    """What was restored.

    Args:
        inventory: what the backup says of its content.
        reconciled: what was changed so that a scheduler may look at it.
    """

    inventory: Inventory
    reconciled: Reconciled


def restore_airflow_database(
    vault: Vault,
    backup: Backup,
    url: str,
    *,
    postgres_programs: Path | None = None,
    timeout_seconds: float = 4 * 3600.0,
) -> RestoredDatabase:
    """Restore the metadata database of a backup, and make it fit for a scheduler.

    An SQLite file gets its name when it is. In PostgreSQL the user that restores cannot write by default until it is.

    Args:
        url: of an empty PostgreSQL database, or of an SQLite file that is not there yet; of the kind that was
            backed up.
        timeout_seconds: for all of it.

    Raises:
        Refused: the database is not empty; nothing was changed.
        CommandFailed, Damaged: it could not be restored; the database is as empty as it was.
        NotReconciled: PostgreSQL was restored, and is held until `reconcile_airflow_database`.
        ConfigError: the URL, or another kind of database.
    """
    parsed, programs = parse_url(url), find_programs(postgres_programs)
    inventory = read_beside(vault, backup).inventory
    _refuse(inventory, parsed, programs, timeout_seconds)
    if isinstance(parsed, SqliteUrl):
        made: list[Reconciled] = []
        _restore(vault, backup, parsed, _Renamed(parsed.path, lambda file: made.append(_fit(file))))
        return RestoredDatabase(inventory, made[0])
    hold(parsed, programs)
    try:
        _restore(vault, backup, parsed, _PgRestore(parsed, programs, timeout_seconds))
    except BaseException as error:
        _release(parsed, programs, error)
        raise
    try:
        return RestoredDatabase(inventory, reconcile_airflow_database(url, postgres_programs=postgres_programs))
    except CommandFailed as error:
        raise _not_reconciled(parsed, error) from None


def restore_dump(
    vault: Vault,
    backup: Backup,
    inventory: Inventory,
    url: DatabaseUrl,
    programs: PostgresPrograms,
    timeout_seconds: float,
) -> None:
    """Restore it as it was, for a drill: whoever starts a scheduler on it has to reconcile it first."""
    _refuse(inventory, url, programs, timeout_seconds)
    target: Target
    target = _Renamed(url.path) if isinstance(url, SqliteUrl) else _PgRestore(url, programs, timeout_seconds)
    _restore(vault, backup, url, target)


def _restore(vault: Vault, backup: Backup, url: DatabaseUrl, target: Target) -> None:
    done = restore_backup(vault, backup, target, RestoreOptions(paths=(DUMPS[url.kind],)))
    _require(vault, backup, DUMPS[url.kind], there=done.restored == 1)


def _fit(file: Path) -> Reconciled:
    with SqliteSession(file) as session:
        # A process that is killed here leaves no journal beside a draft, which the next draft would take for its own.
        session.ask("PRAGMA journal_mode = MEMORY")
        return reconcile(session)


def _release(url: PostgresUrl, programs: PostgresPrograms, error: BaseException) -> None:
    """After a restore that failed. Raises NotReconciled: it did not, its end was not heard of."""
    try:
        empty = release_empty(url, programs)
    except CommandFailed:
        return  # It does not answer; whoever restores again, or reconciles, finds it held.
    if not empty and isinstance(error, CommandFailed):
        raise _not_reconciled(url, error) from None


def _not_reconciled(url: PostgresUrl, error: CommandFailed) -> NotReconciled:
    return NotReconciled(
        "the database is restored, but not reconciled",
        where=url.place,
        expected="every DAG paused before a scheduler looks at it",
        found=f"{error.what}: {error.found}",
        fix=RECONCILE,
    )


def _refuse(inventory: Inventory, url: DatabaseUrl, programs: PostgresPrograms, timeout_seconds: float) -> None:
    """Raises ConfigError: another kind of database. Refused: it is there already, or not empty."""
    if inventory.database.kind != url.kind:
        raise ConfigError(
            "the backup is of another kind of database",
            where=url.place,
            expected=inventory.database.kind,
            found=url.kind,
        )
    if isinstance(url, SqliteUrl):
        _refuse_file(url.path)
    else:
        _refuse_tables(url, programs, timeout_seconds)


def _refuse_file(path: Path) -> None:
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), Path(f"{path}-journal")):
        if name.exists():
            raise Refused(
                "a database is there already",
                where=str(name),
                expected="nothing",
                found="a file",
                fix="Stop Airflow and move it away first; nothing is overwritten",
            )


def _refuse_tables(url: PostgresUrl, programs: PostgresPrograms, timeout_seconds: float) -> None:
    with PostgresSession(url, programs, timeout_seconds=timeout_seconds) as session:
        found, held = session.tables(), is_held(session)
    if found and held:
        raise Refused(
            "the database was restored already, and not reconciled",
            where=url.place,
            expected="no tables",
            found=f"{len(found)} tables, which its user cannot write by default",
            fix=RECONCILE,
        )
    if found:
        raise Refused(
            "the database is not empty",
            where=url.place,
            expected="no tables",
            found=f"{len(found)} tables, {found[0]} the first",
            fix="Make an empty one with `createdb`; nothing is overwritten",
        )


@dataclass
class _Memory:
    found: dict[str, bytes] = field(default_factory=dict)
    folds_case: bool = False

    def has(self, row: TreeRow) -> bool:
        return row.path in self.found

    def write(self, row: TreeRow, pieces: Iterator[bytes]) -> None:
        if row.size_bytes > _MOST_BYTES:
            raise ConfigError(
                "an object beside the dump is too large",
                where=row.path,
                expected=f"at most {_MOST_BYTES} bytes",
                found=f"{row.size_bytes}",
            )
        self.found[row.path] = b"".join(pieces)

    def finish(self) -> None:
        return None


@dataclass
class _Renamed:
    """One object under another name.

    Args:
        fit: told the complete file before it has its name.
    """

    file: Path
    fit: Callable[[Path], object] | None = None
    folds_case: bool = True

    def has(self, row: TreeRow) -> bool:  # noqa: ARG002 - it was made sure that nothing is there
        return False

    def write(self, row: TreeRow, pieces: Iterator[bytes]) -> None:
        target = FolderTarget(self.file.parent, before_named=self.fit)
        target.write(TreeRow(self.file.name, row.size_bytes, row.digest, None, None, 0o600, row.chunks), pieces)

    def finish(self) -> None:
        return None


@dataclass
class _PgRestore:
    """A `pg_restore` in one transaction: it is committed after the last byte was verified, or never."""

    url: PostgresUrl
    programs: PostgresPrograms
    timeout_seconds: float
    folds_case: bool = False

    def has(self, row: TreeRow) -> bool:  # noqa: ARG002 - it was made sure that nothing is there
        return False

    def write(self, row: TreeRow, pieces: Iterator[bytes]) -> None:  # noqa: ARG002 - a dump has one name
        argv: list[str | Path] = [
            self.programs("pg_restore"),
            "--exit-on-error",
            "--single-transaction",
            "--no-owner",
            "--no-privileges",
            "--no-password",
            f"--dbname={self.url.environ.get('PGDATABASE', '')}",
        ]
        with Child(
            argv,
            writable(self.url, restoring=True).child_environ(),
            timeout_seconds=self.timeout_seconds,
            stdin=True,
            hide=self.url.secrets,
        ) as child:
            held = b""
            for piece in pieces:
                if not child.feed(held):
                    child.end()
                held = piece
            # The last piece is held back until the verification after it has passed.
            child.feed(held)
            child.end()

    def finish(self) -> None:
        return None
