"""Airflow for tests: an own home, no examples, and the checks every DAG file must pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
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
        "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"), "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
    }


@pytest.fixture(scope="session")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a cold parse of each DAG file found, by file name; none of the variables a topology names is set."""
    files = [*sorted(DAGS.glob("*.py")), *sorted(REJECTED.glob("*.py"))]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "HOLDFAST"))}
    environ |= airflow_environ(tmp_path_factory.mktemp("airflow"))
    answer = subprocess.run([sys.executable, str(Path(__file__).parent / "cold_parse.py"), *map(str, files)],
                            env=environ, capture_output=True, text=True, timeout=300, cwd=ROOT)
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
    if dag["max_active_runs"] != 1:
        yield f"may run {dag['max_active_runs']} times at once"
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
