"""Vertex AI's client of a site, through the Google provider's hook."""

from __future__ import annotations

from typing import Any

from holdfast.engine.config import Site
from holdfast.hooks.connections import airflow_connection


def vertex_client(site_name: str, site: Site) -> Any:  # noqa: ARG001  # as every compute client's maker
    """The ``JobServiceClient`` of the site's region, with the login of the site's compute connection.

    The credentials are Airflow's: a key, impersonation, federation, or the environment's own. The backend gives every
    call its timeout.

    :param site_name: the site's name in the topology.
    :param site: its compute's connection is taken, else its own.
    :raises ConfigError: there is no such connection, or it is not a ``google_cloud_platform`` one.
    """
    from airflow.providers.google.cloud.hooks.vertex_ai.custom_job import CustomJobHook

    conn_id = site.compute.connection or site.connection
    airflow_connection(conn_id, conn_type="google_cloud_platform")
    return CustomJobHook(gcp_conn_id=conn_id).get_job_service_client(region=site.region)
