"""Airflow's metadata database as the source of a backup, with what a dump lacks beside it.

escrow = escrow_keys(AirflowKeys.from_command(command), [security_officer], apart_from=[vault.store])
with airflow_source(url, command=command, escrow=escrow) as source:
    back_up(vault, source)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from holdfast.clock import Clock, SystemClock
from holdfast.engine.vault.airflow_state.command import AirflowCommand, Installed
from holdfast.engine.vault.airflow_state.dumps import Dump, begin_dump
from holdfast.engine.vault.airflow_state.fernet import cannot_open
from holdfast.engine.vault.airflow_state.inventory import Inventory, encrypted_rows, look_at
from holdfast.engine.vault.airflow_state.keys import Escrow
from holdfast.engine.vault.airflow_state.programs import PostgresPrograms, find_programs
from holdfast.engine.vault.airflow_state.redact import redact
from holdfast.engine.vault.airflow_state.urls import DatabaseUrl, PostgresUrl, parse_url
from holdfast.engine.vault.errors import CommandFailed
from holdfast.engine.vault.sources import SourceObject, failed

INVENTORY = "airflow-state.json"
KEYS = "airflow-keys.json"
#: What a dump of each kind of database is called in a backup.
DUMPS = {"postgresql": "airflow.dump", "sqlite": "airflow.db"}


@dataclass
class AirflowSource:
    """See `airflow_source`. Each time its objects are asked for, it takes a new look at the database."""

    name: str
    url: DatabaseUrl
    programs: PostgresPrograms
    timeout_seconds: float
    installed: Installed | None
    configuration: Mapping[str, Mapping[str, str]] | None
    escrow: Escrow | None
    folder: Path | None
    clock: Clock
    kind: str = "stream"
    is_remote: bool = False
    inventory: Inventory | None = None
    _dump: Dump | None = field(default=None, repr=False)
    _complete: bool = field(default=False, repr=False)

    def __enter__(self) -> AirflowSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def taken_at(self) -> datetime:
        return self._looked.taken_at

    @property
    def origin(self) -> Mapping[str, Any]:
        looked = self._looked
        return {
            "airflow": looked.airflow,
            "database": looked.database.kind,
            "place": looked.database.place,
            "server": looked.database.server,
            "alembic": list(looked.database.revisions),
            "counts": looked.database.counts,
            "escrow": self.escrow is not None,
        }

    @property
    def _looked(self) -> Inventory:
        assert self.inventory is not None, "its objects were not asked for yet"
        return self.inventory

    def objects(self) -> Iterator[SourceObject]:
        """All objects, in path order. Raises SourceFailed, ConfigError."""
        self.close()
        self._complete = False
        with self._failing():
            taken_at = self.clock.now()
            self._dump = begin_dump(self.url, self.programs, timeout_seconds=self.timeout_seconds, folder=self.folder)
            self.inventory = self._look(self._dump, taken_at)
        try:
            sizes: dict[str, int | None] = {path: len(data) for path, data in self._extra().items()}
            sizes[self._dump.path] = None
            for path in sorted(sizes):
                yield SourceObject(path, sizes[path], taken_at, None, None, None)
        finally:
            self.close()

    def read(self, item: SourceObject) -> Iterator[bytes]:
        """The content of one, in pieces. Raises SourceFailed."""
        extra = self._extra().get(item.path)
        if extra is not None:
            yield extra
            return
        assert self._dump is not None, "its objects are not being asked for"
        with self._failing():
            yield from self._dump.pieces(list(self._looked.database.tables))
        self._complete = True

    def finish(self) -> None:
        """Raises SourceFailed: the dump was not read to its checked end."""
        if not self._complete:
            raise failed(
                "the dump was not read to its end", where=self.url.place, expected="all of it", found="a part of it"
            )

    def close(self) -> None:
        """End what still runs, and remove what is temporary."""
        dump, self._dump = self._dump, None
        if dump is not None:
            dump.close()

    def _failing(self) -> _Failing:
        return _Failing(self)

    def _look(self, dump: Dump, taken_at: datetime) -> Inventory:
        state = look_at(
            dump.session,
            kind=self.url.kind,
            place=self.url.place,
            server=dump.server,
            configuration=self.configuration,
        )
        if self.escrow is not None and self.escrow.keys.fernet_key is not None:
            closed = cannot_open(encrypted_rows(dump.session), self.escrow.keys.fernet_key)
            if closed:
                raise failed(
                    "the Fernet key in escrow does not open what this database holds",
                    where=self.url.place,
                    expected="a key for each connection and variable",
                    found=f"none for {', '.join(closed[:10])}",
                )
        inventory = Inventory(
            taken_at,
            state,
            self.installed,
            None if self.configuration is None else redact(self.configuration, self._secrets()),
            None
            if self.escrow is None
            else {
                "path": KEYS,
                "keys": list(self.escrow.keys.names),
                "recipients": [{"kind": kind, "key": name} for kind, name in self.escrow.recipients],
            },
        )
        self._check_no_secret(inventory)
        return inventory

    def _secrets(self) -> tuple[str, ...]:
        database = self.url.secrets if isinstance(self.url, PostgresUrl) else ()
        return (*database, *(self.escrow.keys.secrets if self.escrow is not None else ()))

    def _check_no_secret(self, inventory: Inventory) -> None:
        text = inventory.to_bytes().decode()
        # A short one, like the password `airflow`, is found in any text about Airflow.
        if any(secret in text for secret in self._secrets() if len(secret) >= 12):
            raise failed(
                "the inventory would hold a secret",
                where=self.url.place,
                expected="no secret outside the escrow",
                found="one of them in the configuration or in a name",
            )

    def _extra(self) -> dict[str, bytes]:
        extra = {INVENTORY: self._looked.to_bytes()}
        if self.escrow is not None:
            extra[KEYS] = self.escrow.data
        return extra


class _Failing:
    """A program's failure is the source's failure, and nothing of it goes on after it."""

    def __init__(self, source: AirflowSource) -> None:
        self._source = source

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        self._source.close()
        if isinstance(error, CommandFailed):
            raise failed(
                "the metadata database could not be dumped",
                where=self._source.url.place,
                expected=error.expected or "a good end",
                found=f"{error.what}: {error.found}",
            ) from None


def airflow_source(
    url: str,
    *,
    name: str = "airflow",
    command: AirflowCommand | None = None,
    configuration: Mapping[str, Mapping[str, str]] | None = None,
    escrow: Escrow | None = None,
    postgres_programs: Path | None = None,
    timeout_seconds: float = 4 * 3600.0,
    folder: Path | None = None,
    clock: Clock | None = None,
) -> AirflowSource:
    """Airflow's metadata database as a source, with an inventory and the sealed keys beside the dump.

    The dump and the counts of the inventory are of one moment. Use it in a `with`: what runs is then ended at once
    when the backup fails.

    Args:
        url: of the database itself, as SQLAlchemy writes it: PostgreSQL (no pooler in transaction mode) or SQLite.
        name: of the series of backups.
        command: the installation, asked for its configuration and what is installed beside it; without one the
            inventory says that this is unknown.
        configuration: in effect, by section and option, instead of asking `command`. Secrets in it are redacted.
        escrow: Airflow's keys; they are checked to open every encrypted connection and variable of the database.
        postgres_programs: the folder of `pg_dump`, `pg_restore` and `psql`; not older than the server.
        timeout_seconds: for the dump.
        folder: where the copy of an SQLite file lies meanwhile.

    Raises:
        ConfigError: the URL.
        CommandFailed, MissingProgram: `command` does not answer.
    """
    parsed = parse_url(url)
    installed = None
    if command is not None:
        installed = command.installed
        configuration = command.configuration if configuration is None else configuration
    return AirflowSource(
        name,
        parsed,
        find_programs(postgres_programs),
        timeout_seconds,
        installed,
        configuration,
        escrow,
        folder,
        clock or SystemClock(),
    )
