"""A DAG of one task, run by Airflow's own scheduler on a restored database, in an Airflow that knows nothing else."""

from __future__ import annotations

import json
import os
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast.clock import Clock
from holdfast.engine.vault.airflow_state.children import Child
from holdfast.engine.vault.airflow_state.command import AirflowCommand
from holdfast.engine.vault.airflow_state.keys import AirflowKeys
from holdfast.engine.vault.airflow_state.scratch import HOST, free_port
from holdfast.engine.vault.airflow_state.sessions import Session
from holdfast.engine.vault.errors import CommandFailed

DAG_ID = "holdfast_restore_drill"
BUNDLE = "holdfast-restore-drill"
_DAG_FILE = f'''"""Made by a restore drill of Holdfast, for the drill's own copy of the database."""

from airflow.sdk import DAG, task

with DAG("{DAG_ID}", schedule=None, catchup=False):

    @task
    def answer():
        return "restored"

    answer()
'''


@dataclass
class ScratchAirflow:
    """An Airflow over a restored database.

    Args:
        command: whose installation is used; of its environment, nothing that configures Airflow.
        folder: its home, empty.
        url: of the database, as SQLAlchemy writes it.
        keys: from the escrow; what is not there is made up.
    """

    command: AirflowCommand
    folder: Path
    url: str
    keys: AirflowKeys
    clock: Clock

    def __post_init__(self) -> None:
        self._port = free_port()
        for name in ("dags", "plugins", "logs"):
            (self.folder / name).mkdir()
        (self.folder / "dags" / f"{DAG_ID}.py").write_text(_DAG_FILE)
        self.environment = self._environment()

    def check_migrations(self) -> None:
        """Raises CommandFailed: this Airflow does not work on that database."""
        self.command.run(
            "db", "check-migrations", "--migration-wait-timeout", "1", environment=self.environment, folder=self.folder
        )

    def run_canary(self, session: Session, *, timeout_seconds: float) -> str:
        """Start a scheduler and have it run the DAG. Returns the id of the run that succeeded.

        Raises:
            CommandFailed: a part of Airflow ended, or the run did not succeed in time.
        """
        deadline = self.clock.monotonic() + timeout_seconds
        started: list[Child] = []
        try:
            started.append(self._start("api-server", timeout_seconds))
            self._airflow("dags", "reserialize", "--bundle-name", BUNDLE)
            run_id = f"drill-{secrets.token_hex(8)}"
            self._airflow("dags", "trigger", DAG_ID, "--run-id", run_id)
            self._wait(started, deadline, "the API that tasks report to answers", self._api_answers)
            started.append(self._start("scheduler", timeout_seconds, "--skip-serve-logs"))
            self._wait(started, deadline, "the run succeeds", lambda: self._succeeded(session, run_id))
            return run_id
        finally:
            for child in reversed(started):
                child.stop()

    def _airflow(self, *arguments: str) -> None:
        self.command.run(*arguments, environment=self.environment, folder=self.folder)

    def _start(self, name: str, seconds: float, *arguments: str) -> Child:
        log = self.folder / "logs" / f"{name}.log"
        return self.command.start(name, *arguments, environment=self.environment, log=log, seconds=seconds)

    def _wait(self, started: list[Child], deadline: float, what: str, reached: Callable[[], bool]) -> None:
        while not reached():
            for child in started:
                if not child.running:
                    raise CommandFailed("a part of Airflow ended", where=what, found=child.failure().found)
            if self.clock.monotonic() > deadline:
                raise CommandFailed(
                    "the restored Airflow did not run the DAG in time",
                    where=DAG_ID,
                    expected=what,
                    found=started[-1].errors[-2000:] or "nothing was said",
                )
            self.clock.sleep(0.25)

    def _succeeded(self, session: Session, run_id: str) -> bool:
        found = session.ask(
            "SELECT r.state AS run, t.state AS task FROM dag_run r LEFT JOIN task_instance t"  # noqa: S608
            f" ON t.dag_id = r.dag_id AND t.run_id = r.run_id WHERE r.dag_id = '{DAG_ID}' AND r.run_id = '{run_id}'"
        )
        states = {row["run"] for row in found}
        if "failed" in states:
            raise CommandFailed(
                "the restored Airflow ran the DAG, and it failed", where=DAG_ID, expected="success", found=str(found)
            )
        return states == {"success"} and {row["task"] for row in found} == {"success"}

    def _api_answers(self) -> bool:
        import httpx

        try:
            answer = httpx.get(f"http://{HOST}:{self._port}/execution/health", timeout=30.0)
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in self.command.environment.items()
            if not name.startswith(("AIRFLOW_", "_AIRFLOW", "PG"))
        }
        address = f"http://{HOST}:{self._port}"
        made_up = urlsafe_b64encode(os.urandom(32)).decode()
        bundle = {
            "name": BUNDLE,
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(self.folder / "dags")},
        }
        sections: Mapping[str, Mapping[str, object]] = {
            "core": {
                "dags_folder": self.folder / "dags",
                "plugins_folder": self.folder / "plugins",
                "load_examples": False,
                "executor": "LocalExecutor",
                "parallelism": 2,
                "dags_are_paused_at_creation": False,
                "fernet_key": self.keys.fernet_key or made_up,
                "execution_api_server_url": f"{address}/execution/",
                "simple_auth_manager_passwords_file": self.folder / "passwords.json",
            },
            "database": {"sql_alchemy_conn": self.url},
            "api": {
                "host": HOST,
                "port": self._port,
                "base_url": address,
                "workers": 1,
                "secret_key": self.keys.api_secret_key or made_up,
            },
            "api_auth": {"jwt_secret": self.keys.jwt_secret or made_up},
            "logging": {"base_log_folder": self.folder / "logs", "remote_logging": False},
            "dag_processor": {"dag_bundle_config_list": json.dumps([bundle])},
            "scheduler": {"scheduler_idle_sleep_time": 0.1, "use_job_schedule": True},
            "workers": {"execution_api_timeout": 60},
            "metrics": {"statsd_on": False, "otel_on": False},
            "traces": {"otel_on": False},
        }
        variables = {
            f"AIRFLOW__{section.upper()}__{option.upper()}": str(value)
            for section, options in sections.items()
            for option, value in options.items()
        }
        return {**kept, **variables, "AIRFLOW_HOME": str(self.folder)}
