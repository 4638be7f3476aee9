"""A PostgreSQL server of one's own for a while: in a temporary folder, on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from holdfast.clock import Clock, SystemClock
from holdfast.engine.vault.airflow_state.children import Child, run
from holdfast.engine.vault.airflow_state.programs import PostgresPrograms
from holdfast.engine.vault.airflow_state.urls import PostgresUrl, parse_url
from holdfast.engine.vault.errors import CommandFailed
from holdfast.errors import ConfigError

HOST = "127.0.0.1"
_ROLE = "holdfast"
_PORT_TRIES = 5
_HBA = """
local all all trust
host  all all 127.0.0.1/32 scram-sha-256
"""


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class ScratchPostgres:
    """A server.

    Its socket lies in a folder that only its user enters, and whoever connects there is trusted; over TCP a password
    that was made for this server alone is needed.

    Args:
        programs: of the version it is to be.
        lifetime_seconds: after so long it is killed, whatever happens.
        user: the system user it runs as. By default oneself; for root, who may not run a server, `postgres` or
            `nobody`.
        settings: of the server, e.g. ``restore_command``.
    """

    programs: PostgresPrograms
    lifetime_seconds: float = 3600.0
    user: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    clock: Clock = field(default_factory=SystemClock)
    password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    port: int = 0
    _server: Child | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.user is None and os.geteuid() == 0:
            self.user = server_user()
        # Not below anybody's private folder: the server's user has to reach it.
        self.folder = Path(tempfile.mkdtemp(prefix="holdfast-pg-"))
        self.folder.chmod(0o711)
        self.data, self.sockets, self.own = (self.make_folder(name) for name in ("data", "sockets", "own"))

    def make_folder(self, name: str) -> Path:
        """A folder of the server's user, and of nobody else."""
        made = self.folder / name
        made.mkdir(mode=0o700)
        if self.user is not None:
            shutil.chown(made, self.user, _group(self.user))
        return made

    def __enter__(self) -> ScratchPostgres:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def initialise(self) -> None:
        """Make an empty cluster. Raises CommandFailed, MissingProgram."""
        self.run(
            "initdb",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
            f"--username={_ROLE}",
            "--auth=trust",
            f"--pgdata={self.data}",
        )

    @property
    def _environ(self) -> dict[str, str]:
        return {"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)}

    def run(self, program: str, *arguments: str, timeout_seconds: float = 120.0) -> bytes:
        """Run one of PostgreSQL's programs as the server's user. Raises CommandFailed."""
        return run(
            [self.programs(program), *arguments],
            self._environ,
            timeout_seconds=timeout_seconds,
            user=self.user,
            folder=self.folder,
        )

    def start(self, *, timeout_seconds: float = 60.0, role: str = _ROLE) -> None:
        """Start the server and wait until it takes changes; then give its role a password.

        Args:
            timeout_seconds: for that, recovery included.
            role: a superuser of the cluster.

        Raises:
            CommandFailed: it does not start, or not in time.
        """
        for attempt in range(1, _PORT_TRIES + 1):
            self.port = free_port()
            self._spawn()
            try:
                self._wait(timeout_seconds)
                break
            except CommandFailed as error:
                if attempt == _PORT_TRIES or "Address already in use" not in (error.found or ""):
                    raise
        self._sql(role, f"ALTER ROLE \"{role}\" PASSWORD '{self.password}'")
        self._role = role

    def _spawn(self) -> None:
        hba, ident, conf = (self.own / name for name in ("pg_hba.conf", "pg_ident.conf", "postgresql.conf"))
        for file, text in ((hba, _HBA), (ident, ""), (conf, "")):
            file.write_text(text)
            file.chmod(0o600)
            if self.user is not None:
                shutil.chown(file, self.user, _group(self.user))
        options = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": str(self.sockets),
            "config_file": str(conf),
            "hba_file": str(hba),
            "ident_file": str(ident),
            "password_encryption": "scram-sha-256",
            "logging_collector": "off",
            "ssl": "off",
            # A restored cluster would else go on archiving where the one it is a copy of does.
            "archive_mode": "off",
            # Else it would call itself ready while it still replays the log of a restored one.
            "hot_standby": "off",
            **self.settings,
        }
        # On the command line, where they outweigh what a restored cluster's own files say.
        said = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self._server = Child(
            [self.programs("postgres"), "-D", str(self.data), *said],
            self._environ,
            timeout_seconds=self.lifetime_seconds,
            user=self.user,
            folder=self.folder,
            orphaned=signal.SIGQUIT,
        )

    def _wait(self, timeout_seconds: float) -> None:
        """Until `postmaster.pid` says ready: what pg_ctl looks at."""
        assert self._server is not None
        deadline = self.clock.monotonic() + timeout_seconds
        state = ""
        while state != "ready":
            if not self._server.running or self.clock.monotonic() > deadline:
                failure = self._server.failure()
                self.stop()
                raise CommandFailed(
                    "the PostgreSQL server did not start",
                    where=str(self.folder),
                    expected=f"ready within {timeout_seconds:g} s",
                    found=f"{state or 'starting'}; {failure.found}",
                )
            self.clock.sleep(0.05)
            with suppress(OSError, IndexError):
                state = (self.data / "postmaster.pid").read_text().splitlines()[7].strip()

    def _sql(self, role: str, statement: str, database: str = "postgres") -> None:
        where = ("-h", str(self.sockets), "-p", str(self.port), "-U", role, "-d", database)
        with Child(
            [self.programs("psql"), "-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", *where],
            self._environ,
            timeout_seconds=60,
            stdin=True,
            hide=(self.password,),
            user=self.user,
            folder=self.folder,
        ) as child:
            child.feed(f"{statement};\n".encode())
            child.end()

    def create_database(self, name: str) -> None:
        """Raises CommandFailed."""
        self._sql(self._role, f'CREATE DATABASE "{name}"')

    def url_text(self, database: str) -> str:
        """As SQLAlchemy writes it, the password in it."""
        return f"postgresql+psycopg2://{self._role}:{self.password}@{HOST}:{self.port}/{database}"

    def url(self, database: str) -> PostgresUrl:
        found = parse_url(self.url_text(database))
        assert isinstance(found, PostgresUrl)
        return found

    @property
    def pid(self) -> int | None:
        """Of the server, while it runs."""
        return None if self._server is None or not self._server.running else self._server.process.pid

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the server: clients are sent away, and what it does not do in time is not waited for."""
        server, self._server = self._server, None
        if server is not None:
            server.stop(number, grace_seconds=20.0)

    def remove(self) -> None:
        """End the server and remove everything of it."""
        # At once: what it would still write is thrown away.
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)


def server_user() -> str:
    """Who runs a PostgreSQL server for root, who may not. Raises ConfigError: nobody is there to."""
    import pwd

    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise ConfigError(
        "PostgreSQL does not run as root, and there is no user to run it as",
        expected="the user postgres or nobody",
        found="neither",
        fix="Run this as another user than root",
    )


def _group(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid
