"""SageMaker's clients through the Amazon provider's hooks, with whatever login the connection has."""

from __future__ import annotations

import json

import pytest

from holdfast.engine.config import Cloud, Site
from holdfast.errors import ConfigError
from holdfast.hooks.sagemaker import sagemaker_client


def site(compute_connection: str | None) -> Site:
    return Site.model_validate(
        {
            "cloud": Cloud.AWS,
            "region": "eu-west-1",
            "jurisdiction": "EU",
            "connection": "storage",
            "bucket": "b",
            "compute": {"connection": compute_connection},
        }
    )


def define(patch: pytest.MonkeyPatch, conn_id: str, conn_type: str = "aws", **extra: object) -> None:
    fields = {"conn_type": conn_type, "login": f"key-of-{conn_id}", "password": "secret", "extra": extra}
    patch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))


@pytest.mark.parametrize(("own", "used"), [("training", "training"), (None, "storage")])
def test_the_computes_own_connection_comes_first(monkeypatch: pytest.MonkeyPatch, own: str | None, used: str) -> None:
    for conn_id in ("training", "storage"):
        define(monkeypatch, conn_id, region_name="us-east-1", endpoint_url=f"http://{conn_id}.invalid")
    clients = sagemaker_client("site-a", site(own))
    assert clients.training.meta.service_model.service_name == "sagemaker"
    assert clients.logs.meta.service_model.service_name == "logs"
    for client in (clients.training, clients.logs):
        assert client.meta.endpoint_url == f"http://{used}.invalid"
        assert client.meta.region_name == "eu-west-1"
        assert client.meta.config.read_timeout == 10
        assert client.meta.config.retries["total_max_attempts"] == 2


def test_a_connection_of_another_cloud_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    define(monkeypatch, "storage", "wasb")
    with pytest.raises(ConfigError, match="another kind"):
        sagemaker_client("site-a", site(None))
