"""A real Airflow API server of a test's own, on SQLite, asked over HTTP: what collectors of its audit trail meet."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_world import AIRFLOW, AirflowDatabase
from holdfast.engine.config import Connection
from holdfast.sandbox import ports, processes

USERS = {"boss": "admin", "reader": "viewer"}
PASSWORD = "a test's password"


@dataclass
class AirflowServer:
    """One API server over one database, with an admin and a viewer."""

    home: Path
    database: AirflowDatabase
    port: int = field(default_factory=ports.free_port)
    process: processes.Identity | None = None

    @property
    def url(self) -> str:
        return f"http://{ports.HOST}:{self.port}"

    def connection(self, user: str = "boss") -> Connection:
        return Connection(
            conn_id="airflow_api", conn_type="http", host=ports.HOST, port=self.port, login=user, password=PASSWORD
        )

    def environment(self) -> dict[str, str]:
        passwords = self.home / "passwords.json"
        passwords.write_text(json.dumps(dict.fromkeys(USERS, PASSWORD)))
        return self.database.environment(self.home) | {
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{role}" for user, role in USERS.items()),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.home / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(self.home / "plugins"),
            "AIRFLOW__API__HOST": ports.HOST,
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.home / "logs"),
            "HOLDFAST_STATE": str(self.home / "state"),
            "NO_COLOR": "1",
        }

    def start(self, *, timeout_seconds: float = 240.0) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        log = self.home / "api-server.log"
        command = [str(AIRFLOW), "api-server", "--apps", "core"]
        self.process = processes.spawn(command, environ=self.environment(), log=log, cwd=self.home)[1]
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline and self.process.alive:
            try:
                if httpx.get(f"{self.url}/api/v2/version", timeout=5.0, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        raise AssertionError(log.read_text(errors="replace")[-3000:])

    def stop(self) -> None:
        if self.process is not None:
            processes.stop([self.process], grace_seconds=10.0)

    def ask(self, method: str, path: str, *, user: str = "boss", **options: Any) -> httpx.Response:
        """One call of the API as a user."""
        with httpx.Client(base_url=self.url, timeout=60.0, trust_env=False) as client:
            login = client.post("/auth/token", json={"username": user, "password": PASSWORD})
            login.raise_for_status()
            token = login.json()["access_token"]
            return client.request(method, path, headers={"Authorization": f"Bearer {token}"}, **options)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """A look into, or a change of, its database behind its back."""
        with closing(sqlite3.connect(self.database.url.removeprefix("sqlite:///"), timeout=30)) as connection:
            found = connection.execute(statement, values).fetchall()
            connection.commit()
            return found

    def run(self, *arguments: str) -> str:
        """The airflow command over the same database."""
        done = subprocess.run(
            [AIRFLOW, *arguments], env=self.environment(), capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def airflow_server(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowServer]:
    """An API server with the DAGs ``etl`` and ``train`` in its database."""
    home = tmp_path_factory.mktemp("airflow-server")
    file = home / "airflow.db"
    shutil.copyfile(migrated_sqlite, file)
    server = AirflowServer(home, AirflowDatabase(f"sqlite:///{file}").fill())
    try:
        server.start()
        yield server
    finally:
        server.stop()


__all__ = ["AirflowServer", "airflow_server"]
