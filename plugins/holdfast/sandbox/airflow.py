"""A real Airflow for the demo and the end-to-end test: scheduler, triggerer, dag-processor and API server.

Nothing here imports Airflow; it starts Airflow's own processes, on a free port of 127.0.0.1, with its own home in a
state folder, and talks to them over REST as the UI does. It is for one machine and its owner, not for production:
SQLite, the LocalExecutor and a password in a file.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from holdfast.sandbox import ports, processes
from holdfast.sandbox.airflow_connection import USER, VARIABLE, airflow_connection
from holdfast.sandbox.errors import MissingTool, PartFailed, SandboxError, SandboxNotUp
from holdfast.sandbox.files import read_json, write_json, write_text

#: What the API server calls its parts, and the command that starts each.
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
#: Airflow's command with the modules of Holdfast's tasks imported.
PRELOAD = "holdfast.hooks.preload"
_FINISHED = frozenset({"success", "failed"})


class AirflowRefused(SandboxError):
    """Airflow's API did not accept what it was asked."""


@dataclass(frozen=True, slots=True)
class DagRun:
    """One run of a DAG, by the ids the API knows it by."""

    dag_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class TaskState:
    """Where one task of a run stands."""

    task_id: str
    state: str | None
    try_number: int
    duration_seconds: float | None


class AirflowStack:
    """Airflow's four processes over one state folder.

    Args:
        state: the folder that becomes ``AIRFLOW_HOME``; kept between runs, so a second start needs no migration.
        environment: variables every process gets on top of this one's: the sandbox's connections and topology.
        dags: the folder of DAG files.
        plugins: Airflow's plugins folder.
        parallelism: tasks that may run at once.
    """

    def __init__(
        self,
        state: Path,
        environment: Mapping[str, str],
        *,
        dags: Path,
        plugins: Path,
        parallelism: int = 6,
    ) -> None:
        self.state = state.resolve()
        self.environment = dict(environment)
        self.dags = dags.resolve()
        self.plugins = plugins.resolve()
        self.parallelism = parallelism
        self._token: str | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    def prepare(self, *, timeout_seconds: float = 180.0) -> None:
        """Create or migrate the metadata database; the slow part of a first start, which needs nothing else running.

        Raises:
            MissingTool: Airflow is not installed beside this interpreter.
            PartFailed: the migration failed.
        """
        settings = self._settings()
        done = self.state / "migrated"
        version = f"{sys.executable} {_airflow_version()}"
        if done.exists() and done.read_text(encoding="utf-8") == version:
            return
        log = self.state / "logs" / "migrate.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            code = subprocess.run(
                [self._executable(), "db", "migrate"],
                env=self._environ(settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.state,
                timeout=timeout_seconds,
                check=False,
            ).returncode
        if code != 0:
            raise PartFailed(
                "Airflow's database could not be migrated",
                where=str(log),
                expected="exit code 0",
                found=f"exit code {code}",
                fix=f"Read {log}, or remove {self.state} and start again",
            )
        shutil.copyfile(self.state / "airflow.db", self.state / "airflow.db.migrated")
        write_text(done, version)

    def forget_runs(self) -> None:
        """Begin with an empty history: the database as it was after its migration. Only while Airflow is down."""
        fresh, database = self.state / "airflow.db.migrated", self.state / "airflow.db"
        if fresh.exists() and not self._running():
            shutil.copyfile(fresh, database)
            for left in ("airflow.db-wal", "airflow.db-shm"):
                (self.state / left).unlink(missing_ok=True)

    def start(self) -> None:
        """Start the processes that are not running, after `prepare`; returns before they answer."""
        running = self._running()
        environ = self._environ(self._settings() if running else self._begin())
        for name in COMPONENTS:
            if name not in running:
                running[name] = self._spawn(name, environ)
        write_json(self.state / "processes.json", {name: [one.pid, one.started] for name, one in running.items()})

    def start_another(self, name: str) -> processes.Identity:
        """Start a process beside one that runs, e.g. a second triggerer; whoever starts it stops it."""
        return self._spawn(name, self._environ(self._settings()))

    def up(self, *, timeout_seconds: float = 180.0) -> None:
        """`prepare`, `start` and wait until every process reports healthy.

        Raises:
            PartFailed: one of them ended, or they did not become healthy in time.
        """
        self.prepare(timeout_seconds=timeout_seconds)
        self.start()
        self.wait_healthy(timeout_seconds=timeout_seconds)

    def wait_healthy(self, *, timeout_seconds: float = 180.0) -> None:
        """Wait until the API server answers and says that the other three have a heartbeat."""
        started_at = self._settings()["started_at"]
        deadline = time.monotonic() + timeout_seconds
        found = "no answer"
        while time.monotonic() < deadline:
            self._expect_alive()
            found = self._unhealthy(started_at)
            if not found and self._tasks_can_report():
                return
            time.sleep(0.25)
        raise PartFailed(
            "Airflow did not become healthy",
            where=str(self.state),
            expected=f"within {timeout_seconds:g} s",
            found=found,
            fix=f"Read the logs under {self.state / 'logs'}",
        )

    def process(self, name: str) -> processes.Identity:
        """One of the running processes of `COMPONENTS`, e.g. to kill it; `start` then starts it again.

        Raises:
            SandboxNotUp: it does not run.
        """
        running = self._running()
        if name not in running:
            raise SandboxNotUp(
                "this part of Airflow does not run",
                where=str(self.state),
                expected=f"one of {', '.join(running) or '(none)'}",
                found=name,
            )
        return running[name]

    def down(self) -> None:
        """Stop what this state folder started. Stopping what does not run is no error."""
        processes.stop(self._running().values(), grace_seconds=15.0)
        (self.state / "processes.json").unlink(missing_ok=True)
        self._token = None

    # -- REST ---------------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where the UI and the API answer."""
        return f"http://{ports.HOST}:{self._settings()['port']}"

    @property
    def password(self) -> str:
        """The password of `USER`."""
        return str(self._settings()["password"])

    def wait_for_dag(self, dag_id: str, *, timeout_seconds: float = 60.0) -> None:
        """Wait until the dag-processor has parsed a DAG. Raises PartFailed with the import errors there are."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            answer = self._request("GET", f"/api/v2/dags/{dag_id}", accept=(404,))
            if answer.status_code == 200 and not answer.json().get("is_stale"):
                return
            time.sleep(0.25)
        errors = self.request("GET", "/api/v2/importErrors").get("import_errors", [])
        raise PartFailed(
            "the DAG was not parsed",
            where=dag_id,
            expected=f"within {timeout_seconds:g} s",
            found="; ".join(e["stack_trace"][-500:] for e in errors) or "no import error",
            fix=f"Read {self.state / 'logs' / 'dag-processor.log'}",
        )

    def pause(self, dag_id: str, paused: bool = True) -> None:
        """Let the scheduler start runs of this DAG, or not."""
        self.request("PATCH", f"/api/v2/dags/{dag_id}", params={"update_mask": "is_paused"}, json={"is_paused": paused})

    def trigger(self, dag_id: str, conf: Mapping[str, object] | None = None, *, note: str | None = None) -> DagRun:
        """Start a run with a configuration, as the UI's form does; waits until the DAG is parsed, and unpauses it.

        Raises:
            AirflowRefused: the API refused it, e.g. a parameter outside its enum.
        """
        self.wait_for_dag(dag_id)
        self.pause(dag_id, False)
        body = self.request(
            "POST",
            f"/api/v2/dags/{dag_id}/dagRuns",
            json={"logical_date": None, "conf": dict(conf or {}), "note": note},
        )
        return DagRun(dag_id, body["dag_run_id"])

    def state_of(self, run: DagRun) -> str:
        """``queued``, ``running``, ``success`` or ``failed``."""
        return str(self.request("GET", f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}")["state"])

    def tasks(self, run: DagRun) -> list[TaskState]:
        """Every task instance of a run."""
        body = self.request(
            "GET", f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances", params={"limit": 100}
        )
        return [TaskState(t["task_id"], t["state"], t["try_number"], t["duration"]) for t in body["task_instances"]]

    def result(self, run: DagRun, task_id: str, key: str = "return_value") -> Any:
        """What a task returned; ``None`` when it returned nothing."""
        answer = self._request(
            "GET",
            f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}/xcomEntries/{key}",
            accept=(404,),
            params={"deserialize": "false"},
        )
        if answer.status_code == 404:
            return None
        value = answer.json()["value"]
        # Stored values come back as the JSON text they are stored as.
        return json.loads(value) if isinstance(value, str) else value

    def log(self, run: DagRun, task_id: str, try_number: int = 1) -> str:
        """The log of one try of a task, as text."""
        answer = self._request(
            "GET",
            f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}/logs/{try_number}",
            accept=(404,),
            params={"full_content": "true"},
        )
        if answer.status_code == 404:
            return ""
        lines = answer.json().get("content", [])
        return "\n".join(str(line.get("event", line)) if isinstance(line, dict) else str(line) for line in lines)

    def follow(self, run: DagRun, *, timeout_seconds: float, interval_seconds: float = 0.5) -> Iterator[TaskState]:
        """Each change of a task's state as it happens, until the run has ended.

        Raises:
            PartFailed: it did not end in time.
        """
        deadline = time.monotonic() + timeout_seconds
        seen: dict[str, tuple[str | None, int]] = {}
        while True:
            state = self.state_of(run)
            for task in self.tasks(run):
                if task.state is not None and seen.get(task.task_id) != (task.state, task.try_number):
                    seen[task.task_id] = (task.state, task.try_number)
                    yield task
            if state in _FINISHED:
                return
            if time.monotonic() > deadline:
                raise PartFailed(
                    "the run did not end",
                    where=f"{run.dag_id} {run.run_id}",
                    expected=f"within {timeout_seconds:g} s",
                    found=f"state {state}: {seen}",
                )
            self._expect_alive()
            time.sleep(interval_seconds)

    def wait(self, run: DagRun, *, timeout_seconds: float) -> str:
        """Wait until a run has ended; its state."""
        for _ in self.follow(run, timeout_seconds=timeout_seconds):
            pass
        return self.state_of(run)

    def wait_for_question(self, run: DagRun, task_id: str, *, timeout_seconds: float = 60.0) -> dict[str, Any]:
        """Wait until a task asks a person; the question's subject, body and options.

        Raises:
            PartFailed: it did not ask in time.
        """
        path = f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}/-1/hitlDetails"
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            waiting = any(t.task_id == task_id and t.state == "awaiting_input" for t in self.tasks(run))
            answer = self._request("GET", path, accept=(404,)) if waiting else None
            if answer is not None and answer.status_code == httpx.codes.OK:
                question: dict[str, Any] = answer.json()
                return question
            time.sleep(0.25)
        raise PartFailed(
            "the task does not ask",
            where=f"{run.dag_id}.{task_id}",
            expected=f"a question within {timeout_seconds:g} s",
            found=f"run {self.state_of(run)}",
        )

    def answer(self, run: DagRun, task_id: str, option: str) -> None:
        """Answer a question, as the user under *Required actions*."""
        self.request(
            "PATCH",
            f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}/-1/hitlDetails",
            json={"chosen_options": [option], "params_input": {}},
        )

    def request(
        self, method: str, path: str, *, params: Mapping[str, str | int] | None = None, json: object = None
    ) -> Any:
        """One call of the API with the user's token; the decoded answer. Raises AirflowRefused, SandboxNotUp."""
        return self._request(method, path, params=params, body=json).json()

    # -- inside -------------------------------------------------------------------------------------------------

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: object = None,
        accept: tuple[int, ...] = (),
    ) -> httpx.Response:
        answer = self._send(method, path, params, body, self._login())
        if answer.status_code >= 400 and answer.status_code not in accept:
            raise AirflowRefused(
                "Airflow refused the request",
                where=f"{method} {path}",
                expected="a status below 400",
                found=f"{answer.status_code}: {answer.text[:600]}",
            )
        return answer

    def _send(
        self, method: str, path: str, params: Mapping[str, str | int] | None, body: object, token: str | None
    ) -> httpx.Response:
        headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        failure: Exception | None = None
        # Reading again is harmless; a POST whose answer was lost may have happened, so it is sent once.
        for attempt in range(4 if method == "GET" else 1):
            try:
                return httpx.request(
                    method, self.address + path, params=params, json=body, headers=headers, timeout=30.0
                )
            except httpx.TransportError as error:
                failure = error
                time.sleep(0.25 * 2**attempt)
        raise SandboxNotUp(
            "Airflow's API does not answer",
            where=self.address + path,
            expected="an answer within 30 s",
            found=repr(failure),
            fix=f"Read {self.state / 'logs' / 'api-server.log'}",
        )

    def _login(self) -> str:
        if self._token is None:
            answer = self._send("POST", "/auth/token", None, {"username": USER, "password": self.password}, None)
            if answer.status_code != 201:
                raise AirflowRefused(
                    "the login was refused",
                    where=f"{self.address}/auth/token",
                    expected="201",
                    found=f"{answer.status_code}: {answer.text[:300]}",
                )
            self._token = str(answer.json()["access_token"])
        return self._token

    def _unhealthy(self, started_at: float) -> str:
        """What is not healthy yet, empty when everything is."""
        try:
            health = httpx.get(f"{self.address}/api/v2/monitor/health", timeout=5.0).json()
        except (httpx.HTTPError, ValueError) as error:
            return f"api-server: {error!r}"
        bad = []
        for name in ("scheduler", "dag_processor", "triggerer"):
            part = health.get(name) or {}
            beat = part.get(f"latest_{name}_heartbeat")
            # A heartbeat left in the database by the processes before these proves nothing.
            if part.get("status") != "healthy" or beat is None or _seconds(beat) < started_at:
                bad.append(f"{name}: {part.get('status')}")
        return ", ".join(bad)

    def _tasks_can_report(self) -> bool:
        """Ask the API that tasks report to; it is built at its first request, which else the first task waits for."""
        try:
            return httpx.get(f"{self.address}/execution/health", timeout=60.0).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _expect_alive(self) -> None:
        running = self._running()
        ended = [name for name in COMPONENTS if name not in running]
        if ended:
            log = self.state / "logs" / f"{ended[0]}.log"
            tail = log.read_text(encoding="utf-8", errors="replace")[-1500:] if log.exists() else ""
            raise PartFailed(
                "a part of Airflow ended", where=", ".join(ended), expected="running", found=tail, fix=f"Read {log}"
            )

    def _spawn(self, name: str, environ: Mapping[str, str]) -> processes.Identity:
        # Tasks are forks of the scheduler: what it has imported they need not.
        airflow = [sys.executable, "-m", PRELOAD] if name == "scheduler" else [self._executable()]
        return processes.spawn(
            [*airflow, *COMPONENTS[name]], environ=environ, log=self.state / "logs" / f"{name}.log", cwd=self.state
        )[1]

    def _running(self) -> dict[str, processes.Identity]:
        recorded = read_json(self.state / "processes.json") or {}
        found = {name: processes.Identity(pid, since) for name, (pid, since) in recorded.items()}
        return {name: one for name, one in found.items() if one.alive}

    def _executable(self) -> str:
        # Not resolved: in a virtual environment the interpreter is a link out of it.
        path = Path(sys.executable).parent / "airflow"
        if not path.exists():
            raise MissingTool(
                "Airflow is not installed",
                where=str(path),
                expected="the airflow command beside Python",
                found="nothing",
                fix="Install it: pip install 'holdfast[airflow]'",
            )
        return str(path)

    def _settings(self) -> dict[str, Any]:
        """Port and secrets of this home, made once and kept, readable by their owner only."""
        file = self.state / "settings.json"
        settings = read_json(file)
        if not isinstance(settings, dict):
            settings = {
                "port": ports.free_port(),
                "password": secrets.token_urlsafe(12),
                "jwt_secret": secrets.token_urlsafe(48),
                "secret_key": secrets.token_urlsafe(32),
                "fernet_key": urlsafe_b64encode(os.urandom(32)).decode(),
                "started_at": 0.0,
            }
            write_json(file, settings)
            write_json(self.state / "passwords.json", {USER: settings["password"]})
        return settings

    def _begin(self) -> dict[str, Any]:
        """The settings of a new start: the same secrets, and another port when somebody took the old one."""
        settings = self._settings() | {"started_at": time.time()}
        if not ports.is_free(settings["port"]):
            settings["port"] = ports.free_port()
        write_json(self.state / "settings.json", settings)
        return settings

    def _environ(self, settings: Mapping[str, Any]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "_AIRFLOW"))}
        return inherited | self.environment | _configuration(self, settings)


def _configuration(stack: AirflowStack, settings: Mapping[str, Any]) -> dict[str, str]:
    """Airflow's configuration, as environment variables: what differs from its defaults, and why."""
    address = f"http://{ports.HOST}:{settings['port']}"
    sections: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": stack.dags,
            "plugins_folder": stack.plugins,
            "load_examples": False,
            "executor": "LocalExecutor",
            "parallelism": stack.parallelism,
            "fernet_key": settings["fernet_key"],
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": stack.state / "passwords.json",
            # Where tasks report to; its default is port 8080, whoever listens there.
            "execution_api_server_url": f"{address}/execution/",
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{stack.state / 'airflow.db'}"},
        "api": {
            "host": ports.HOST,
            "port": settings["port"],
            "base_url": address,
            "secret_key": settings["secret_key"],
        },
        # Without a fixed secret every process makes its own and refuses the others' tokens.
        "api_auth": {"jwt_secret": settings["jwt_secret"]},
        "logging": {
            "base_log_folder": stack.state / "logs",
            "dag_processor_child_process_log_directory": stack.state / "logs" / "dag_processor",
        },
        # How long the scheduler rests when nothing is due: the floor of a hop from task to task.
        "scheduler": {"scheduler_idle_sleep_time": 0.1, "scheduler_heartbeat_sec": 1, "job_heartbeat_sec": 2},
        # On a busy machine an answer may take longer than the 5 s a task waits by default.
        "workers": {"execution_api_timeout": 60},
        "triggerer": {"job_heartbeat_sec": 1},
        "dag_processor": {"parsing_processes": 1, "min_file_process_interval": 60, "refresh_interval": 30},
        "metrics": {"statsd_on": False, "otel_on": False},
    }
    variables = {
        f"AIRFLOW__{section.upper()}__{key.upper()}": str(value)
        for section, options in sections.items()
        for key, value in options.items()
    }
    own = {VARIABLE: airflow_connection(settings)}
    return variables | own | {"AIRFLOW_HOME": str(stack.state), "NO_COLOR": "1"}


def _airflow_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("apache-airflow-core")
    except PackageNotFoundError:
        raise MissingTool(
            "Airflow is not installed",
            where=sys.executable,
            expected="apache-airflow",
            found="nothing",
            fix="Install it: pip install 'holdfast[airflow]'",
        ) from None


def _seconds(moment: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()
