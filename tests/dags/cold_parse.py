"""Run by `conftest.py` in a process of its own: parse DAG files cold and say what was found, as one JSON object.

Airflow is imported once; every parse then runs in a fork of that process, so nothing of one file is warm for the next.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path

import airflow.sdk
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.param import ParamsDict
from airflow.serialization.serialized_objects import DagSerialization

REPEATS = 3
#: Seconds of import each, and none of a DAG file's business.
HEAVY = (
    "adlfs",
    "azure",
    "boto3",
    "botocore",
    "gcsfs",
    "google",
    "great_expectations",
    "kubernetes",
    "obstore",
    "pandas",
    "pyarrow",
    "sklearn",
    "torch",
    "xgboost",
)


def parse(file: Path) -> dict[str, object]:
    before = set(sys.modules)
    started = time.perf_counter()
    bag = DagBag(str(file), safe_mode=False)
    seconds = time.perf_counter() - started
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    return {
        "seconds": seconds,
        "heavy": sorted(new & set(HEAVY)),
        "errors": [str(text).strip().splitlines()[-1] for text in bag.import_errors.values()],
        "dags": [facts(dag) for dag in bag.dags.values()],
    }


def facts(dag: airflow.sdk.DAG) -> dict[str, object]:
    params = dag.params if isinstance(dag.params, ParamsDict) else ParamsDict(dag.params)
    tasks = dag.tasks
    return {
        "dag_id": dag.dag_id,
        "owner": dag.default_args.get("owner"),
        "retries": dag.default_args.get("retries"),
        "tags": sorted(dag.tags),
        "doc": (dag.doc_md or "").strip(),
        "description": dag.description,
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "run_timeout": dag.dagrun_timeout is not None,
        "deadline": dag.deadline is not None,
        "schedule": str(dag.schedule),
        "params": {
            name: {"description": params.get_param(name).description, **params.get_param(name).schema}
            for name in params
        },
        "tasks": {
            t.task_id: {
                "class": type(t).__name__,
                "teardown": t.is_teardown,
                "fails_run": bool(getattr(t, "on_failure_fail_dagrun", False)),
                "setups": sorted(u.task_id for u in t.upstream_list if u.is_setup),
                "downstream": sorted(t.downstream_task_ids),
                "trigger_rule": getattr(t.trigger_rule, "value", t.trigger_rule),
                "defaults": getattr(t, "defaults", None),
                "has_response_timeout": getattr(t, "response_timeout", None) is not None,
            }
            for t in tasks
        },
        "round_trip": round_trip(dag),
    }


def round_trip(dag: airflow.sdk.DAG) -> str:
    """Empty when what the scheduler reads back is what was written."""
    try:
        written = json.loads(json.dumps(DagSerialization.to_dict(dag)))
        read = DagSerialization.from_dict(written)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    for what, there, back in (
        ("tasks", sorted(dag.task_ids), sorted(read.task_ids)),
        (
            "edges",
            [sorted(t.downstream_task_ids) for t in sorted(dag.tasks, key=lambda t: t.task_id)],
            [sorted(t.downstream_task_ids) for t in sorted(read.tasks, key=lambda t: t.task_id)],
        ),
        ("params", sorted(dag.params), sorted(read.params)),
        ("tags", sorted(dag.tags), sorted(read.tags)),
        ("documentation", dag.doc_md, read.doc_md),
        ("deadline", dag.deadline is not None, bool(read.deadline)),
    ):
        if there != back:
            return f"{what} {there} came back as {back}"
    return ""


def in_a_fork(file: Path) -> dict[str, object]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            answer = parse(file)
        except BaseException:
            answer = {"seconds": 0.0, "heavy": [], "errors": [traceback.format_exc()], "dags": []}
        with os.fdopen(writing, "w") as out:
            json.dump(answer, out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        text = answers.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def main() -> None:
    found = {}
    for name in sys.argv[1:]:
        runs = [in_a_fork(Path(name)) for _ in range(REPEATS)]
        found[name] = {**runs[0], "seconds": min(run["seconds"] for run in runs)}
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main()
