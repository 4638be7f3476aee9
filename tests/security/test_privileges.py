"""What a viewer of a real Airflow may not do: start a drill or a failover, unpause or clear one, answer an approval."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_server import AirflowServer, airflow_server  # noqa: F401 - a fixture
from airflow_world import migrated_sqlite  # noqa: F401 - a fixture

pytestmark = [pytest.mark.slow]

RUN = "/api/v2/dags/etl/dagRuns"
FORBIDDEN: list[tuple[str, str, Any]] = [
    ("POST", RUN, {"logical_date": None, "conf": {"scenario": "site-outage"}}),
    ("PATCH", "/api/v2/dags/etl", {"is_paused": True}),
    ("POST", f"{RUN}/run-1/clear", {"dry_run": False}),
    ("PATCH", f"{RUN}/run-1/taskInstances/load/-1/hitlDetails", {"chosen_options": ["Approve"], "params_input": {}}),
    ("POST", "/api/v2/connections", {"connection_id": "x", "conn_type": "http"}),
    ("DELETE", "/api/v2/dags/etl", None),
]


@pytest.mark.parametrize(("method", "path", "body"), FORBIDDEN)
def test_a_viewer_is_refused(airflow_server: AirflowServer, method: str, path: str, body: Any) -> None:  # noqa: F811
    before = airflow_server.sql("SELECT count(*), max(run_id) FROM dag_run"), airflow_server.sql("SELECT * FROM dag")
    assert airflow_server.ask(method, path, user="reader", json=body).status_code == 403
    after = airflow_server.sql("SELECT count(*), max(run_id) FROM dag_run"), airflow_server.sql("SELECT * FROM dag")
    assert after == before


def test_an_admin_is_not(airflow_server: AirflowServer) -> None:  # noqa: F811
    """Else the refusals above might have another reason."""
    for method, path, body in FORBIDDEN[:5]:
        assert airflow_server.ask(method, path, json=body).status_code != 403, path
