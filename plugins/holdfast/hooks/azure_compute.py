"""Clients of Azure's compute services, through the Microsoft provider's hooks.

The hooks log in. Their clients have the SDK's own timeouts (minutes, ten tries); the backends give theirs with each
call. The provider has no hook of Azure ML, whose client is made with its limits here, by the same fields.
"""

from __future__ import annotations

from typing import Any

from holdfast.engine.config import Site
from holdfast.errors import ConfigError
from holdfast.hooks.connections import AirflowConnections, airflow_connection


def container_instances_client(site_name: str, site: Site) -> Any:
    """A ``ContainerInstanceManagementClient`` for the site's compute connection.

    :param site_name: the site's name, for messages.
    :param site: a site with ``compute.kind: azure-container-instances``.
    :raises ConfigError: there is no such connection, its fields make no client, or it is of another subscription.
    """
    from airflow.providers.microsoft.azure.hooks.container_instance import AzureContainerInstanceHook

    settings = site.compute.azure_container_instances
    if settings is not None:
        _require_subscription(site_name, site, settings.subscription)
    hook = AzureContainerInstanceHook(azure_conn_id=_connection_id(site))
    return _made(site_name, site, hook.get_conn)


def batch_client(site_name: str, site: Site) -> Any:
    """A ``BatchClient`` for the site's compute connection.

    :param site_name: the site's name, for messages.
    :param site: a site with ``compute.kind: azure-batch``.
    :raises ConfigError: there is no such connection, its fields make no client, or it is of another account.
    """
    from airflow.providers.microsoft.azure.hooks.batch import AzureBatchHook

    settings = site.compute.azure_batch
    extra = airflow_connection(_connection_id(site)).extra_dejson
    named = extra.get("account_url") or extra.get("extra__azure_batch__account_url")
    if settings is not None and named and str(named).rstrip("/") != settings.account_url.rstrip("/"):
        raise ConfigError(
            "the connection is of another Batch account than the site's compute",
            where=f"sites.{site_name}.compute, connection {_connection_id(site)!r}",
            expected=settings.account_url,
            found=str(named),
        )
    return _made(site_name, site, AzureBatchHook(azure_batch_conn_id=_connection_id(site)).get_conn)


def ml_client(site_name: str, site: Site) -> Any:
    """An ``MLClient`` of the site's workspace for its compute connection, an ``azure`` one.

    :param site_name: the site's name, for messages.
    :param site: a site with ``compute.kind: azure-ml``.
    :raises ConfigError: there is no such connection, its fields make no client, it is of another subscription, or the
        SDK is not installed.
    """
    from holdfast.engine.compute import azure_ml
    from holdfast.engine.compute.azure_calls import credential, ml_cloud

    settings = site.compute.azure_ml
    assert settings is not None  # the topology's own check
    _require_subscription(site_name, site, settings.subscription)
    connection = AirflowConnections().get(_connection_id(site))
    return _made(site_name, site, lambda: azure_ml.ml_client(settings, credential(connection), ml_cloud(connection)))


def _require_subscription(site_name: str, site: Site, subscription: str) -> None:
    named = airflow_connection(_connection_id(site)).extra_dejson.get("subscriptionId")
    if named not in (None, "", subscription):
        raise ConfigError(
            "the connection is of another subscription than the site's compute",
            where=f"sites.{site_name}.compute, connection {_connection_id(site)!r}",
            expected=subscription,
            found=str(named),
        )


def _connection_id(site: Site) -> str:
    return site.compute.connection or site.connection


def _made(site_name: str, site: Site, make: Any) -> Any:
    from airflow.providers.common.compat.sdk import AirflowException

    try:
        return make()
    except (AirflowException, ValueError, TypeError, KeyError, OSError) as error:
        raise ConfigError(
            "the connection's fields make no client",
            where=f"sites.{site_name}.compute, connection {_connection_id(site)!r}",
            expected="what the Microsoft provider's hook takes",
            found=f"{type(error).__name__}: {error}"[:200],
        ) from None
