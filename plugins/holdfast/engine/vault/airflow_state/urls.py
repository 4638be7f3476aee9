"""The metadata database by its URL, as SQLAlchemy writes it; secrets go into a child's environment and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from holdfast.errors import ConfigError

_EXPECTED = "postgresql://user:password@host:port/database, or sqlite:////absolute/path"
#: Connection parameters of a URL's query, and the variable libpq reads each from.
_LIBPQ = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "passfile": "PGPASSFILE",
    "sslmode": "PGSSLMODE",
    "ssl": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "application_name": "PGAPPNAME",
    "options": "PGOPTIONS",
    "channel_binding": "PGCHANNELBINDING",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "gssencmode": "PGGSSENCMODE",
    "krbsrvname": "PGKRBSRVNAME",
    "service": "PGSERVICE",
}


@dataclass(frozen=True)
class PostgresUrl:
    """A PostgreSQL database.

    Args:
        place: host, port and database, for messages.
        environ: libpq's variables, the password among them.
        secrets: what must not appear in a message.
    """

    place: str
    environ: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    kind: str = "postgresql"

    def child_environ(self) -> dict[str, str]:
        """All that a client program gets to see."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        return {**kept, "LC_ALL": "C", "PGAPPNAME": "holdfast", "PGCONNECT_TIMEOUT": "15", **self.environ}


@dataclass(frozen=True)
class SqliteUrl:
    """An SQLite file."""

    path: Path
    kind: str = "sqlite"

    @property
    def place(self) -> str:
        return str(self.path)


DatabaseUrl = PostgresUrl | SqliteUrl


def parse_url(url: str) -> DatabaseUrl:
    """A database by its URL. Raises ConfigError, which never holds the URL."""
    scheme, found, _ = url.partition("://")
    dialect = scheme.partition("+")[0]
    if not found or dialect not in {"postgresql", "postgres", "sqlite"}:
        raise ConfigError(
            "this kind of metadata database cannot be backed up",
            where="the database URL",
            expected=_EXPECTED,
            found=f"a URL of {dialect!r}" if found else "no URL",
            fix="Airflow's other databases have dump programs of their own; back up their output as a stream",
        )
    return _sqlite(url) if dialect == "sqlite" else _postgres(url)


def _sqlite(url: str) -> SqliteUrl:
    path = unquote(url.partition("://")[2].partition("?")[0].removeprefix("/"))
    if not path.startswith("/"):
        raise ConfigError(
            "the SQLite file is not named by an absolute path",
            where="the database URL",
            expected="sqlite:////absolute/path, with four slashes",
            found=f"the path {path!r}",
        )
    return SqliteUrl(Path(path))


def _postgres(url: str) -> PostgresUrl:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(
            "the database URL cannot be read",
            where="the database URL",
            expected=_EXPECTED,
            found="another form",
            fix="Percent-encode special characters of the password",
        ) from None
    environ: dict[str, str] = {}
    given = {
        "PGHOST": unquote(parts.hostname or ""),
        "PGPORT": str(port or ""),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": unquote(parts.password or ""),
        "PGDATABASE": unquote(parts.path.removeprefix("/")),
    }
    environ.update({name: value for name, value in given.items() if value})
    for option, value in parse_qsl(parts.query):
        if option not in _LIBPQ:
            raise ConfigError(
                "a connection parameter is not known",
                where="the database URL",
                expected=", ".join(sorted(_LIBPQ)),
                found=option,
            )
        environ[_LIBPQ[option]] = value
    if "PGDATABASE" not in environ and "PGSERVICE" not in environ:
        raise ConfigError(
            "the database URL names no database", where="the database URL", expected=_EXPECTED, found="none"
        )
    host = environ.get("PGHOST", "(local socket)")
    place = f"{host}:{environ.get('PGPORT', '5432')}/{environ.get('PGDATABASE', '')}"
    password = environ.get("PGPASSWORD")
    return PostgresUrl(place, environ, (password,) if password else ())
