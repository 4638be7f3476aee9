"""Run by `dag_run` in a process of its own: ``dag.test()`` of one DAG; its task instances and results as JSON.

    run_dag.py FILE DAG_ID CONF
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path


def main() -> None:
    file, dag_id, conf = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(file), safe_mode=False)
    assert not bag.import_errors, bag.import_errors
    run = bag.dags[dag_id].test(run_conf=conf)
    print("RESULT " + json.dumps({
        "state": str(run.state), "run_id": run.run_id,
        "tasks": {ti.task_id: {"state": str(ti.state), "tries": ti.try_number, "result": result_of(ti)}
                  for ti in run.get_task_instances()},
    }, default=str))


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
