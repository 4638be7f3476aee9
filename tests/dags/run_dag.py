"""Run by `dag_run` in a process of its own: ``dag.test()`` of one DAG; its task instances and results as JSON.

    run_dag.py FILE DAG_ID CONF

``TEST_PATIENCE_SECONDS`` is how long an approval waits and a watch watches; what the scheduler does when an approval's
time is over, this process does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path


def main() -> None:
    file, dag_id, conf = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(file), safe_mode=False)
    assert not bag.import_errors, bag.import_errors
    patience = float(os.environ.get("TEST_PATIENCE_SECONDS", "5"))
    for task in bag.dags[dag_id].tasks:
        if getattr(task, "response_timeout", None) is not None:
            task.response_timeout = timedelta(seconds=patience)
            threading.Thread(target=sweep, daemon=True).start()
        if hasattr(task, "window_seconds"):
            task.window_seconds = patience
    # Airflow 3.3: a run that dag.test() ends well looks its deadlines up in the database by what the DAG's file says
    # of them, and fails. The end-to-end test runs the drill with its deadline.
    bag.dags[dag_id].deadline = None
    run = bag.dags[dag_id].test(run_conf=conf)
    print(
        "RESULT "
        + json.dumps(
            {
                "state": str(run.state),
                "run_id": run.run_id,
                "tasks": {
                    ti.task_id: {"state": str(ti.state), "tries": ti.try_number, "result": result_of(ti)}
                    for ti in run.get_task_instances()
                },
            },
            default=str,
        )
    )


def sweep() -> None:
    """The scheduler's sweep over approvals whose time is over: the default becomes the answer."""
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    scheduler = SchedulerJobRunner(job=Job())
    while True:
        time.sleep(1)
        try:
            scheduler.check_awaiting_input_timeouts()
        except Exception:
            traceback.print_exc()


def result_of(ti: object) -> object:
    from airflow.models.xcom import XComModel

    found = XComModel.get_many(run_id=ti.run_id, key="return_value", task_ids=ti.task_id, dag_ids=ti.dag_id)
    from airflow.settings import Session

    row = Session().execute(found).scalars().first() if not hasattr(found, "first") else found.first()
    return XComModel.deserialize_value(row) if row is not None else None


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
