"""The metadata database out of a backup: streamed from the vault into an empty database, all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.engine.vault.airflow_state.children import Child
from holdfast.engine.vault.airflow_state.inventory import Inventory, parse_inventory
from holdfast.engine.vault.airflow_state.programs import PostgresPrograms, find_programs
from holdfast.engine.vault.airflow_state.sessions import PostgresSession
from holdfast.engine.vault.airflow_state.source import DUMPS, INVENTORY, KEYS
from holdfast.engine.vault.airflow_state.urls import DatabaseUrl, PostgresUrl, SqliteUrl, parse_url
from holdfast.engine.vault.backups import Backup
from holdfast.engine.vault.restore import RestoreOptions, Target, restore_backup
from holdfast.engine.vault.targets import FolderTarget
from holdfast.engine.vault.tree import TreeRow
from holdfast.engine.vault.vault import Vault
from holdfast.errors import ConfigError, Refused

_MOST_BYTES = 64 * 1024 * 1024


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
    target = _Memory()
    restore_backup(vault, backup, target, RestoreOptions(paths=(INVENTORY,)))
    where = f"{vault.name}: {backup.backup_id}/{INVENTORY}"
    inventory = parse_inventory(target.found[INVENTORY], where)
    if inventory.escrow is not None:
        restore_backup(vault, backup, target, RestoreOptions(paths=(KEYS,)))
    return Beside(inventory, target.found.get(KEYS))


def restore_airflow_database(
    vault: Vault,
    backup: Backup,
    url: str,
    *,
    postgres_programs: Path | None = None,
    timeout_seconds: float = 4 * 3600.0,
) -> Inventory:
    """Restore the metadata database of a backup.

    Args:
        url: of an empty PostgreSQL database, or of an SQLite file that is not there yet; of the kind that was
            backed up.
        timeout_seconds: for all of it.

    Returns:
        What the backup says of its content.

    Raises:
        Refused: the database is not empty; nothing was changed.
        CommandFailed, Damaged: it could not be restored; the database is as empty as it was.
        ConfigError: the URL, or another kind of database.
    """
    parsed = parse_url(url)
    beside = read_beside(vault, backup)
    restore_dump(vault, backup, beside.inventory, parsed, find_programs(postgres_programs), timeout_seconds)
    return beside.inventory


def restore_dump(
    vault: Vault,
    backup: Backup,
    inventory: Inventory,
    url: DatabaseUrl,
    programs: PostgresPrograms,
    timeout_seconds: float,
) -> None:
    """The same, with everything at hand."""
    if inventory.database.kind != url.kind:
        raise ConfigError(
            "the backup is of another kind of database",
            where=url.place,
            expected=inventory.database.kind,
            found=url.kind,
        )
    path = DUMPS[url.kind]
    target: Target
    if isinstance(url, SqliteUrl):
        _refuse_file(url.path)
        target = _Renamed(FolderTarget(url.path.parent), url.path.name)
    else:
        _refuse_tables(url, programs, timeout_seconds)
        target = _PgRestore(url, programs, timeout_seconds)
    restore_backup(vault, backup, target, RestoreOptions(paths=(path,)))


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
        found = session.tables()
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
    """One object under another name."""

    target: FolderTarget
    name: str
    folds_case: bool = True

    def has(self, row: TreeRow) -> bool:  # noqa: ARG002 - it was made sure that nothing is there
        return False

    def write(self, row: TreeRow, pieces: Iterator[bytes]) -> None:
        self.target.write(TreeRow(self.name, row.size_bytes, row.digest, None, None, 0o600, row.chunks), pieces)

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
            self.url.child_environ(),
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
