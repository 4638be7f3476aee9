"""A PostgreSQL cluster with pgBackRest beside it, as a topology describes them, for tests of point-in-time recovery."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from airflow_world import AirflowDatabase
from folders import FolderRuntime, make_folders
from holdfast.cli.main import app
from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.airflow_state.programs import find_programs
from holdfast.engine.vault.airflow_state.scratch import ScratchPostgres

PASSPHRASE = "a passphrase of some length"
#: No machine is lost in a test.
QUICK = {"fsync": "off"}


@dataclass
class Recovery:
    """The command over a topology whose site ``site-b`` has the repository.

    Args:
        server: the cluster.
    """

    topology: Path
    server: ScratchPostgres
    environ: dict[str, str] = field(default_factory=lambda: {**os.environ, "RECOVERY_PASSPHRASE": PASSPHRASE})

    def describe(self, **changed: Any) -> None:
        """Write ``airflow.recovery``."""
        document = yaml.safe_load(self.topology.read_text())
        found = document.setdefault("airflow", {}).setdefault("recovery", {})
        found.update(
            {
                "site": "site-b",
                "passphrase": "env:RECOVERY_PASSPHRASE",
                "data_folder": str(self.server.data),
                "superuser": "holdfast",
                "config_file": str(self.server.folder / "pgbackrest.conf"),
                "work_folder": str(self.server.folder / "work"),
                **changed,
            }
        )
        self.topology.write_text(yaml.safe_dump(document))

    def change_site(self, **changed: Any) -> None:
        """Of the site that has the repository."""
        document = yaml.safe_load(self.topology.read_text())
        document["sites"]["site-b"].update(changed)
        self.topology.write_text(yaml.safe_dump(document))

    def runtime(self) -> Runtime:
        connections = EnvironmentConnections(self.environ)

        def access(_name: str, site: Any) -> Any:
            return StoreAccess() if site.cloud == "local" else connections.get(site.connection)

        return FolderRuntime(
            load_topology(self.topology, self.environ), connections, access=access, environ=self.environ
        )

    def __call__(self, *words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(app, ["vault", *words])
        told = done.output + done.stderr
        assert done.exit_code == code, told
        assert "Traceback" not in told
        assert PASSPHRASE not in told
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code).stdout)

    def begin(self) -> None:
        """Configure, start the cluster with the settings that were told, and configure for the port it got."""
        self.server.initialise()
        self.server.settings = {**QUICK, **self.json("pitr", "configure")["settings"]}
        self.server.start()
        self.describe(port=self.server.port, socket_folder=str(self.server.sockets))
        self.json("pitr", "configure")

    def moment_after(self, database: AirflowDatabase, complete_at: str) -> datetime:
        """A moment by the cluster's clock, after all that is committed, and a second after a base backup."""
        while True:
            with database.session() as session:
                now = datetime.fromisoformat(session.ask("SELECT clock_timestamp() AS now")[0]["now"])
            if now.replace(microsecond=0) > datetime.fromisoformat(complete_at):
                return now
            assert now - datetime.fromisoformat(complete_at) < timedelta(seconds=60)


@contextmanager
def recovery(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recovery]:
    """A topology, and a cluster that is not initialised yet; the repository in a folder of the cluster's user."""
    with ScratchPostgres(find_programs()) as server:
        made = Recovery(make_folders(folder), server)
        made.change_site(bucket=str(server.make_folder("bucket")))
        made.describe()
        monkeypatch.setattr(Runtime, "from_environment", lambda *_args, **_kwargs: made.runtime())
        yield made


def utc(moment: datetime) -> str:
    """As ``--at`` takes it: the whole second before."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
