"""The cluster of a site's training jobs, through the cncf.kubernetes provider's hook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.engine.config import Site
from holdfast.errors import ConfigError
from holdfast.hooks.connections import airflow_connection

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

CONNECTION_TYPE = "kubernetes"


def kubernetes_client(site_name: str, site: Site) -> ApiClient:
    """An ApiClient of the site's cluster; a connection of it says what the site's settings do not.

    Without ``compute.connection`` the settings alone count: the site's own connection is of its cloud, not of a
    cluster. Each client has a configuration of its own, so one process may talk to several clusters; a login with the
    worker's own service account, of which there is one, is the exception the hook makes.

    :param site_name: the site's name in the topology, for messages.
    :param site: the site, with ``compute.kubernetes``.
    :raises ConfigError: there is no such connection, it is not a ``kubernetes`` one, or there is no such login.
    """
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    from airflow.sdk.exceptions import AirflowException
    from kubernetes.client import Configuration
    from kubernetes.config import ConfigException

    settings, where = site.compute.kubernetes, f"sites.{site_name}.compute"
    if settings is None:
        raise ConfigError("the site has no Kubernetes settings", where=where, expected="`kubernetes`")
    conn_id = site.compute.connection
    extra = {} if conn_id is None else airflow_connection(conn_id, conn_type=CONNECTION_TYPE).extra_dejson
    in_cluster = settings.in_cluster or bool(extra.get("in_cluster") or extra.get("extra__kubernetes__in_cluster"))
    hook = KubernetesHook(
        conn_id=conn_id,
        kubernetes_conn_id=None,
        # The hook's in-cluster login fills the default configuration only.
        client_configuration=None if in_cluster else Configuration(),
        cluster_context=settings.context,
        config_file=settings.kubeconfig,
        in_cluster=in_cluster or None,
    )
    try:
        client: ApiClient = hook.get_conn()
    except (AirflowException, ConfigException, OSError) as error:
        raise ConfigError(
            "the cluster's login cannot be read",
            where=where if conn_id is None else f"connection {conn_id!r}",
            expected="one of: in_cluster, a kubeconfig's path, a kubeconfig",
            found=f"{type(error).__name__}: {str(error)[:300]}",
        ) from None
    return client
