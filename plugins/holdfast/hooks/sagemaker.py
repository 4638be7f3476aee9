"""SageMaker's clients of a site, through the Amazon provider's hooks."""

from __future__ import annotations

from holdfast.engine.compute.sagemaker import Clients
from holdfast.engine.config import Site
from holdfast.hooks.connections import airflow_connection


def sagemaker_client(site_name: str, site: Site) -> Clients:  # noqa: ARG001  # as every compute client's maker
    """The clients of ``sagemaker`` and CloudWatch's ``logs``, with the login of the site's compute connection.

    The session is Airflow's: static keys, a profile, an assumed role, or the default chain. Timeouts and retries are
    bounded unless the connection's ``config_kwargs`` say otherwise.

    :param site_name: the site's name in the topology.
    :param site: its compute's connection is taken, else its own.
    :raises ConfigError: there is no such connection, or it is not an ``aws`` one.
    """
    from airflow.providers.amazon.aws.hooks.logs import AwsLogsHook
    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
    from botocore.config import Config

    conn_id = site.compute.connection or site.connection
    connection = airflow_connection(conn_id, conn_type="aws")
    config = None
    if not connection.extra_dejson.get("config_kwargs"):
        config = Config(connect_timeout=10, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})
    # The site says where its jobs run; a connection may serve several regions.
    training = SageMakerHook(aws_conn_id=conn_id, region_name=site.region, config=config)
    logs = AwsLogsHook(aws_conn_id=conn_id, region_name=site.region, config=config)
    return Clients(training.get_conn(), logs.get_conn())
