"""Airflow's connections as the engine's, whatever secrets backend holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.engine.config import Connection
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from airflow.sdk import Connection as AirflowConnection


class AirflowConnections:
    """The engine's `ConnectionSource` over Airflow's connections."""

    def get(self, conn_id: str) -> Connection:
        """The connection of this id.

        :raises ConfigError: there is none, or its extra is no JSON object.
        """
        found = airflow_connection(conn_id)
        return Connection.model_validate(
            {
                "conn_id": conn_id,
                "conn_type": found.conn_type,
                "host": found.host,
                "port": found.port,
                "schema": found.schema,
                "login": found.login,
                "password": found.password,
                "extra": _extra(found),
            }
        )


def airflow_connection(conn_id: str, *, conn_type: str | None = None) -> AirflowConnection:
    """Airflow's own connection of this id.

    :param conn_type: what its type must be.
    :raises ConfigError: there is none, or it is of another type.
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException, AirflowRuntimeError

    try:
        found = BaseHook.get_connection(conn_id)
    except (AirflowNotFoundException, AirflowRuntimeError) as error:
        raise ConfigError(
            "the connection is not defined",
            where=f"connection {conn_id!r}",
            expected="an Airflow connection (UI, secrets backend or AIRFLOW_CONN_…)",
            found=type(error).__name__,
            fix=f"airflow connections add {conn_id} …",
        ) from None
    if conn_type is not None and found.conn_type != conn_type:
        raise ConfigError(
            "the connection is of another kind than the site's cloud",
            where=f"connection {conn_id!r}",
            expected=f"conn_type {conn_type}",
            found=str(found.conn_type),
        )
    return found


def _extra(connection: AirflowConnection) -> dict[str, object]:
    try:
        return dict(connection.extra_dejson or {})
    except ValueError:
        raise ConfigError(
            "the connection's extra is no JSON", where=f"connection {connection.conn_id!r}", expected="a JSON object"
        ) from None
