"""Clients of Azure's compute services from Airflow connections: whose account, which login."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from holdfast.engine.config import Site
from holdfast.errors import ConfigError
from holdfast.hooks.azure_compute import batch_client, container_instances_client, ml_client
from holdfast.hooks.compute import compute_client

URL = "https://account.westeurope.batch.azure.com"
KINDS: dict[str, dict[str, Any]] = {
    "azure-container-instances": {"subscription": "0000", "resource_group": "training", "image": "i"},
    "azure-batch": {"account_url": URL, "pool": "gpus"},
    "azure-ml": {"subscription": "0000", "resource_group": "training", "workspace": "models", "image": "i"},
}


def site(kind: str) -> Site:
    compute = {"kind": kind, "connection": "compute", kind.replace("-", "_"): KINDS[kind]}
    of = {"cloud": "azure", "region": "westeurope", "jurisdiction": "EU", "connection": "cloud", "bucket": "b"}
    return Site.model_validate({**of, "compute": compute})


def connect(monkeypatch: pytest.MonkeyPatch, conn_type: str, login: str, password: str, **extra: str) -> None:
    told = {"conn_type": conn_type, "login": login, "password": password, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_COMPUTE", json.dumps(told))


def test_container_instances_are_reached_as_the_service_principal(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "azure_container_instance", "app", "secret", tenantId="tenant", subscriptionId="0000")
    client = container_instances_client("site-c", site("azure-container-instances"))
    assert client._config.subscription_id == "0000"
    assert type(client._config.credential).__name__ == "ClientSecretCredential"


def test_a_connection_of_another_subscription_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "azure_container_instance", "app", "secret", tenantId="tenant", subscriptionId="1111")
    with pytest.raises(ConfigError, match="expected 0000; found 1111"):
        container_instances_client("site-c", site("azure-container-instances"))


def test_batch_is_reached_with_the_accounts_key(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "azure_batch", "account", base64.b64encode(b"key").decode(), account_url=URL)
    client = batch_client("site-c", site("azure-batch"))
    assert client._config.endpoint == URL
    assert type(client._config.authentication_policy).__name__ == "BatchSharedKeyAuthPolicy"


def test_a_connection_of_another_batch_account_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "azure_batch", "account", "key", account_url="https://other.westeurope.batch.azure.com")
    with pytest.raises(ConfigError, match="another Batch account"):
        batch_client("site-c", site("azure-batch"))


def test_fields_that_make_no_client_name_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "azure_batch", "account", "key")
    with pytest.raises(ConfigError, match=r"connection 'compute'.*Account URL"):
        batch_client("site-c", site("azure-batch"))


def test_azure_ml_is_reached_as_the_service_principal_at_its_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "AzureCloud")  # the SDK notes the cloud there
    extra = {"tenantId": "tenant", "subscriptionId": "0000", "cloud_environment": "AzureChinaCloud"}
    connect(monkeypatch, "azure", "app", "secret", **extra)
    client = compute_client("site-c", site("azure-ml"))
    assert (client.subscription_id, client.resource_group_name, client.workspace_name) == ("0000", "training", "models")
    assert client._base_url == "https://management.chinacloudapi.cn"
    assert type(client._credential).__name__ == "ClientSecretCredential"


def test_azure_ml_without_a_secret_is_reached_as_the_machine_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "AzureCloud")
    connect(monkeypatch, "azure", "", "", managed_identity_client_id="1234")
    assert type(ml_client("site-c", site("azure-ml"))._credential).__name__ == "DefaultAzureCredential"


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"tenantId": "tenant", "subscriptionId": "1111"}, "expected 0000; found 1111"),
        ({"tenantId": "tenant", "cloud_environment": "AzureMoon"}, "AzureMoon"),
        ({"tenantId": "no tenant"}, "connection 'compute'"),
    ],
)
def test_azure_ml_of_wrong_fields_names_the_connection(
    monkeypatch: pytest.MonkeyPatch, extra: dict[str, str], says: str
) -> None:
    connect(monkeypatch, "azure", "app", "secret", **extra)
    with pytest.raises(ConfigError, match=says):
        ml_client("site-c", site("azure-ml"))


def test_azure_ml_without_a_connection_says_so() -> None:
    with pytest.raises(ConfigError, match="not defined"):
        ml_client("site-c", site("azure-ml"))
