"""Connections: the credentials and endpoints behind the connection ids a topology names.

The engine reads them from the environment in Airflow's own JSON form (``AIRFLOW_CONN_<ID>``), so one definition
serves a DAG, the command line and a training process. Under Airflow the same `Connection` comes from its backends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from holdfast.errors import ConfigError


class Connection(BaseModel):
    """One connection, in the fields Airflow gives it. Its secret parts never show in a repr."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    conn_id: str
    conn_type: str
    host: str | None = None
    port: int | None = None
    schema_: str | None = Field(None, alias="schema")
    login: str | None = None
    password: str | None = Field(None, repr=False)
    extra: dict[str, Any] = Field(default_factory=dict, repr=False)

    @field_validator("extra", mode="before")
    @classmethod
    def _parse_extra(cls, value: Any) -> Any:
        if value in (None, ""):
            return {}
        return json.loads(value) if isinstance(value, str) else value


class ConnectionSource(Protocol):
    def get(self, conn_id: str) -> Connection:
        """The connection of this id. Raises ConfigError when there is none."""


class EnvironmentConnections:
    """Connections from ``AIRFLOW_CONN_<ID>`` variables in JSON form."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ

    def get(self, conn_id: str) -> Connection:
        variable = f"AIRFLOW_CONN_{conn_id.upper()}"
        text = self._environ.get(variable)
        if text is None:
            raise ConfigError(
                "the connection is not defined",
                where=f"connection {conn_id!r}",
                expected=f"the environment variable {variable}",
                found="nothing",
                fix='Define it as JSON: {"conn_type": …, "login": …, "extra": {…}}',
            )
        try:
            return Connection.model_validate({**json.loads(text), "conn_id": conn_id})
        except (json.JSONDecodeError, ValidationError, TypeError):
            # The text holds secrets: name the variable, never its value.
            raise ConfigError(
                "the connection is not in Airflow's JSON form",
                where=variable,
                expected='{"conn_type": …, "login": …, "password": …, "extra": {…}}',
                found="something else",
            ) from None
