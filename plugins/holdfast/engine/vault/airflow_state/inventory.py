"""What a dump of Airflow's database lacks, and what a drill compares a restored one with: `airflow-state.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from holdfast.engine.snapshot.documents import canonical, iso_utc
from holdfast.engine.vault.airflow_state.command import Installed
from holdfast.engine.vault.airflow_state.sessions import Row, Session, count_rows
from holdfast.engine.vault.errors import Damaged
from holdfast.errors import ConfigError

FORMAT = "holdfast.airflow-state/1"
_MEMBERS = {"format", "taken_at", "airflow", "python", "pins", "configuration", "locations"} | {
    "database",
    "bundles",
    "counts",
    "escrow",
}
#: What Airflow's database must have to be one.
_NEEDED = ("alembic_version", "connection", "dag", "dag_bundle", "dag_run", "dag_version", "task_instance", "variable")
#: Task instances that somebody was at work on, or about to be.
ACTIVE = ("queued", "restarting", "running")
#: The only bundle of Airflow's own whose versions can be fetched again.
_VERSIONED = ("GitDagBundle",)


@dataclass(frozen=True)
class Bundle:
    """A DAG bundle.

    Args:
        version: as the database has it, ``None`` for one without versions.
        versions: distinct versions that DAG versions name.
        versioned: whether an old version can be fetched again; ``None``: the configuration is not known.
    """

    name: str
    active: bool
    version: str | None
    versions: int
    versioned: bool | None
    classpath: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "active": self.active,
            "version": self.version,
            "versions": self.versions,
            "versioned": self.versioned,
            "classpath": self.classpath,
        }


@dataclass(frozen=True)
class DatabaseState:
    """What one consistent look at the database showed.

    Args:
        revisions: Alembic's, sorted.
        tables: rows by table, all of them.
        active_tasks: task instances that were queued or running.
        canary: id of a connection whose password or extra is encrypted.
        encrypted: connections and variables with something encrypted.
    """

    kind: str
    place: str
    server: str
    revisions: tuple[str, ...]
    tables: Mapping[str, int]
    active_tasks: int
    bundles: tuple[Bundle, ...]
    canary: str | None
    encrypted: int

    @property
    def counts(self) -> dict[str, int]:
        """What a drill compares first, and people read."""
        tables = self.tables
        return {
            "dags": tables["dag"],
            "dag_runs": tables["dag_run"],
            "task_instances": tables["task_instance"],
            "active_task_instances": self.active_tasks,
            "dag_versions": tables["dag_version"],
            "bundles": len(self.bundles),
            "bundle_versions": sum(bundle.versions for bundle in self.bundles),
            "connections": tables["connection"],
            "variables": tables["variable"],
            "encrypted": self.encrypted,
        }


@dataclass(frozen=True)
class Inventory:
    """The document.

    Args:
        database: as of the dump.
        installed: Python, and the version of each distribution; ``None``: not known.
        configuration: in effect, without secrets; ``None``: not known.
        escrow: path of the sealed keys beside the dump, the names of the keys and of those who can open them;
            ``None``: there are none.
    """

    taken_at: datetime
    database: DatabaseState
    installed: Installed | None = None
    configuration: Mapping[str, Mapping[str, str]] | None = None
    escrow: Mapping[str, Any] | None = field(default=None)

    @property
    def airflow(self) -> str | None:
        return None if self.installed is None else self.installed.airflow

    def to_bytes(self) -> bytes:
        database = self.database
        return canonical(
            {
                "format": FORMAT,
                "taken_at": iso_utc(self.taken_at),
                "airflow": self.airflow,
                "python": None if self.installed is None else self.installed.python,
                "pins": None if self.installed is None else dict(self.installed.pins),
                "configuration": None
                if self.configuration is None
                else {k: dict(v) for k, v in self.configuration.items()},
                "locations": locations(self.configuration),
                "database": {
                    "kind": database.kind,
                    "place": database.place,
                    "server": database.server,
                    "alembic": list(database.revisions),
                    "tables": dict(database.tables),
                    "canary_connection": database.canary,
                },
                "bundles": [bundle.to_dict() for bundle in database.bundles],
                "counts": database.counts,
                "escrow": None if self.escrow is None else dict(self.escrow),
            }
        )


def parse_inventory(data: bytes, where: str) -> Inventory:
    """Raises Damaged."""
    try:
        found = json.loads(data)
        if found["format"] != FORMAT or set(found) != _MEMBERS:
            raise ValueError(f"{found['format']} of {', '.join(sorted(found))}")
        database, counts = found["database"], found["counts"]
        return Inventory(
            datetime.fromisoformat(found["taken_at"]),
            DatabaseState(
                database["kind"],
                database["place"],
                database["server"],
                tuple(database["alembic"]),
                {str(name): int(rows) for name, rows in database["tables"].items()},
                int(counts["active_task_instances"]),
                tuple(Bundle(**bundle) for bundle in found["bundles"]),
                database["canary_connection"],
                int(counts["encrypted"]),
            ),
            None if found["pins"] is None else Installed(found["python"], found["pins"]),
            found["configuration"],
            found["escrow"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged("the inventory cannot be read", where=where, expected=FORMAT, found=repr(error)) from None


def look_at(
    session: Session, *, kind: str, place: str, server: str, configuration: Mapping[str, Mapping[str, str]] | None
) -> DatabaseState:
    """Ask a metadata database everything. Raises ConfigError: it is not Airflow's; CommandFailed."""
    names = session.tables()
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise ConfigError(
            "this is not the metadata database of an Airflow 3",
            where=place,
            expected=f"the tables {', '.join(_NEEDED)}",
            found=f"{len(names)} tables, without {', '.join(missing)}",
            fix="Name the database and the schema that Airflow uses; `airflow db migrate` makes its tables",
        )
    rows = encrypted_rows(session)
    canary = next((row["name"] for row in rows if row["kind"] == "connection"), None)
    active = ", ".join(f"'{state}'" for state in ACTIVE)
    return DatabaseState(
        kind,
        place,
        server,
        tuple(sorted(str(row["version_num"]) for row in session.ask("SELECT version_num FROM alembic_version"))),
        count_rows(session, names),
        int(session.ask(f"SELECT count(*) AS n FROM task_instance WHERE state IN ({active})")[0]["n"]),  # noqa: S608
        _bundles(session, configuration),
        canary,
        len({(row["kind"], row["name"]) for row in rows}),
    )


def encrypted_rows(session: Session) -> list[Row]:
    """What the Fernet key opens: kind, name and token, connections with a password first."""
    return session.ask(
        "SELECT 'connection' AS kind, conn_id AS name, password AS token FROM connection"
        " WHERE is_encrypted AND password IS NOT NULL AND password <> ''"
        " UNION ALL SELECT 'connection', conn_id, extra FROM connection"
        " WHERE is_extra_encrypted AND extra IS NOT NULL AND extra <> ''"
        " UNION ALL SELECT 'variable', key, val FROM variable WHERE is_encrypted AND val <> ''"
        " ORDER BY kind, name"
    )


def _bundles(session: Session, configuration: Mapping[str, Mapping[str, str]] | None) -> tuple[Bundle, ...]:
    classes = _bundle_classes(configuration)
    found = session.ask(
        "SELECT b.name, b.active, b.version,"
        " (SELECT count(DISTINCT v.bundle_version) FROM dag_version v WHERE v.bundle_name = b.name) AS versions"
        " FROM dag_bundle b ORDER BY b.name"
    )
    return tuple(
        Bundle(
            row["name"],
            bool(row["active"]),
            row["version"],
            int(row["versions"]),
            None if classes.get(row["name"]) is None else classes[row["name"]].rpartition(".")[2] in _VERSIONED,
            classes.get(row["name"]),
        )
        for row in found
    )


def _bundle_classes(configuration: Mapping[str, Mapping[str, str]] | None) -> dict[str, str]:
    text = (configuration or {}).get("dag_processor", {}).get("dag_bundle_config_list", "")
    try:
        return {str(one["name"]): str(one["classpath"]) for one in json.loads(text or "[]")}
    except (ValueError, KeyError, TypeError):
        return {}


_LOCATIONS: Mapping[str, tuple[str, str]] = {
    "remote_logging": ("logging", "remote_logging"),
    "remote_log_folder": ("logging", "remote_base_log_folder"),
    "remote_log_connection": ("logging", "remote_log_conn_id"),
    "xcom_backend": ("core", "xcom_backend"),
    "xcom_path": ("common.io", "xcom_objectstorage_path"),
    "state_store_backend": ("workers", "state_store_backend"),
    "state_store_path": ("common.io", "state_store_objectstorage_path"),
    "secrets_backend": ("secrets", "backend"),
    "workers_secrets_backend": ("workers", "secrets_backend"),
    "dags_folder": ("core", "dags_folder"),
    "plugins_folder": ("core", "plugins_folder"),
    "executor": ("core", "executor"),
    "auth_manager": ("core", "auth_manager"),
}


def locations(configuration: Mapping[str, Mapping[str, str]] | None) -> dict[str, str | None] | None:
    """Where Airflow keeps what is in neither the dump nor this document; ``None``: not known."""
    if configuration is None:
        return None
    return {name: configuration.get(section, {}).get(option) or None for name, (section, option) in _LOCATIONS.items()}


def differences(expected: DatabaseState, found: DatabaseState, *, most: int = 10) -> Sequence[str]:
    """Where a restored database is not what its inventory says, one sentence each."""
    told = []
    if found.revisions != expected.revisions:
        told.append(f"Alembic revision {', '.join(found.revisions)}, not {', '.join(expected.revisions)}")
    for name in sorted({*expected.tables, *found.tables}):
        was, now = expected.tables.get(name), found.tables.get(name)
        if was != now:
            told.append(f"table {name}: {_rows(now)}, not {_rows(was)}")
    told.extend(
        f"{name}: {found.counts[name]}, not {count}"
        for name, count in expected.counts.items()
        if found.counts[name] != count and name not in {"dags", "dag_runs", "task_instances", "dag_versions"}
    )
    was_bundles = {bundle.name: (bundle.version, bundle.versions) for bundle in expected.bundles}
    now_bundles = {bundle.name: (bundle.version, bundle.versions) for bundle in found.bundles}
    told.extend(
        f"bundle {name}: {now_bundles.get(name)}, not {was}"
        for name, was in was_bundles.items()
        if now_bundles.get(name) != was
    )
    return told[:most] + ([f"and {len(told) - most} more"] if len(told) > most else [])


def _rows(count: int | None) -> str:
    return "not there" if count is None else f"{count} rows"
