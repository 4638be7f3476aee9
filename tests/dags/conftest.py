"""Airflow for tests: an own home, no examples, and the checks every DAG file must pass."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "dags"
REJECTED = Path(__file__).parent / "rejected"
#: The issue's bound; the best of three cold parses must stay under it.
PARSE_SECONDS = 1.0


def airflow_environ(home: Path) -> dict[str, str]:
    """The variables that keep an Airflow process inside ``home``."""
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
    }


@pytest.fixture(scope="session")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a cold parse of each DAG file found, by file name; none of the variables a topology names is set."""
    files = [*sorted(DAGS.glob("*.py")), *sorted(REJECTED.glob("*.py"))]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "HOLDFAST"))}
    environ |= airflow_environ(tmp_path_factory.mktemp("airflow"))
    answer = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "cold_parse.py"), *map(str, files)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    assert answer.returncode == 0, answer.stderr
    line = next(line for line in answer.stdout.splitlines() if line.startswith("RESULT "))
    return {Path(name).name: found for name, found in json.loads(line.removeprefix("RESULT ")).items()}


@pytest.fixture(scope="session")
def violations(parsed: dict[str, dict[str, Any]]):
    """A function: everything that is wrong with a DAG file, as sentences; empty when it may run."""
    return lambda file: list(_violations(parsed[file]))


def _violations(found: dict[str, Any]) -> Iterator[str]:
    yield from (f"import error: {error}" for error in found["errors"])
    if found["heavy"]:
        yield f"imports at parse: {', '.join(found['heavy'])}"
    if found["seconds"] >= PARSE_SECONDS:
        yield f"parses in {found['seconds']:.2f} s"
    if not found["dags"] and not found["errors"]:
        yield "defines no DAG"
    for dag in found["dags"]:
        yield from _of_the_dag(dag)
        yield from _of_its_tasks(dag["tasks"], dag["tags"])


def _of_the_dag(dag: dict[str, Any]) -> Iterator[str]:
    if dag["round_trip"]:
        yield f"does not survive serialisation: {dag['round_trip']}"
    if dag["owner"] in (None, "", "airflow"):
        yield f"has no owner (found {dag['owner']!r})"
    if not dag["retries"]:
        yield "has no retries"
    if "holdfast" not in dag["tags"] or len(dag["tags"]) < 2:
        yield f"has no tags `holdfast` and its kind (found {dag['tags']})"
    if len(dag["doc"]) < 80 or not dag["description"]:
        yield "has no documentation"
    if dag["catchup"]:
        yield "catches up"
    if dag["max_active_runs"] != 1 and "recovery" not in dag["tags"]:  # the register lets one plan per group run
        yield f"may run {dag['max_active_runs']} times at once"
    if dag["run_timeout"] and any(task["teardown"] for task in dag["tasks"].values()):
        yield "a run timeout would skip the teardown"
    for name, param in dag["params"].items():
        if not param.get("description"):
            yield f"the parameter {name} has no description"


def _of_its_tasks(tasks: dict[str, Any], tags: list[str]) -> Iterator[str]:
    for name, task in tasks.items():
        if task["defaults"] is not None and (task["defaults"] != ["Reject"] or not task["has_response_timeout"]):
            yield f"the approval {name} is not rejected when nobody answers"
        if task["class"] == "InjectFaultOperator" and not any(
            t["class"] == "LiftFaultOperator" and t["teardown"] and t["fails_run"] for t in tasks.values()
        ):
            yield f"the fault of {name} is not lifted by a teardown whose failure counts"
        if task["class"] == "InjectFaultOperator" and not any(
            t["class"] == "ConcludeDrillOperator" and t["trigger_rule"] == "all_done" and not t["downstream"]
            for t in tasks.values()
        ):
            yield "a drill that fails leaves no evidence"


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a migrated database, made once per test process."""
    home = tmp_path_factory.mktemp("airflow-home")
    subprocess.run(
        [str(Path(sys.executable).parent / "airflow"), "db", "migrate"],
        check=True,
        capture_output=True,
        env={**os.environ, **airflow_environ(home)},
        timeout=240,
    )
    return home


@dataclass
class DagTest:
    """One ``dag.test()`` in a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def result(self, *, timeout: float = 240.0) -> dict[str, Any]:
        """The run's state, and per task its state, tries and result."""
        self.process.wait(timeout=timeout)
        line = next((line for line in self.text.splitlines() if line.startswith("RESULT ")), None)
        assert line is not None, self.text[-6000:]
        return json.loads(line.removeprefix("RESULT "))

    @property
    def text(self) -> str:
        """Everything it logged."""
        return self.log.read_text(encoding="utf-8", errors="replace")


@pytest.fixture
def start_dag(airflow_home: Path, tmp_path: Path) -> Iterator[Callable[..., DagTest]]:
    """A function that begins ``dag.test()`` of a DAG with a configuration, in an Airflow of this test's own."""
    home = tmp_path / "airflow"
    shutil.copytree(airflow_home, home)
    begun: list[DagTest] = []

    def start(file: Path, dag_id: str, conf: dict[str, Any] | None = None, **environ: str) -> DagTest:
        log = tmp_path / f"{dag_id}-{len(begun)}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "run_dag.py"), str(file), dag_id, json.dumps(conf or {})],
                env={
                    **os.environ,
                    **airflow_environ(home),
                    "AIRFLOW__CORE__DAGS_FOLDER": str(file.parent),
                    "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
                    **environ,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
            )
        begun.append(DagTest(process, log))
        return begun[-1]

    yield start
    for one in begun:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Ask until the answer is true, or fail after so many seconds."""

    def ask(question: Callable[[], Any], seconds: float = 60.0) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if answer := question():
                return answer
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds:g} s")

    return ask
