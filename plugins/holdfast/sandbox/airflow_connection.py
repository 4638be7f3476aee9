"""The connection to the API of the sandbox's Airflow, for those who read its audit log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.sandbox.files import read_json
from holdfast.sandbox.ports import HOST
from holdfast.sandbox.processes import Identity

USER = "admin"
VARIABLE = "AIRFLOW_CONN_HOLDFAST_AIRFLOW"
_API = "api-server"


def airflow_folder(state: Path) -> Path:
    """Where the demo's Airflow lives in a sandbox's state."""
    return state / "airflow"


def airflow_connection(settings: Mapping[str, Any]) -> str:
    """Airflow's JSON form of the connection, from the settings an `AirflowStack` keeps."""
    return json.dumps(
        {
            "conn_type": "http",
            "host": HOST,
            "port": settings["port"],
            "schema": "http",
            "login": USER,
            "password": settings["password"],
        },
        sort_keys=True,
    )


def running_airflow(state: Path) -> dict[str, str]:
    """The variable of the connection where an Airflow runs in this state folder; else nothing."""
    folder = airflow_folder(state)
    settings, recorded = read_json(folder / "settings.json"), read_json(folder / "processes.json")
    if not isinstance(settings, dict) or not isinstance(recorded, dict) or _API not in recorded:
        return {}
    pid, since = recorded[_API]
    return {VARIABLE: airflow_connection(settings)} if Identity(pid, since).alive else {}
