"""Vertex AI's client through the Google provider's hook."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.engine.config import Cloud, Site
from holdfast.errors import ConfigError
from holdfast.hooks.vertex import vertex_client


def site(compute_connection: str | None) -> Site:
    return Site.model_validate(
        {
            "cloud": Cloud.GCP,
            "region": "europe-west1",
            "jurisdiction": "EU",
            "connection": "storage",
            "bucket": "b",
            "compute": {"connection": compute_connection},
        }
    )


@pytest.fixture
def key() -> dict[str, str]:
    """A service account's key as the console gives it, of an account that does not exist."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "client_email": "trainer@p.iam.gserviceaccount.com",
        "token_uri": "http://127.0.0.1:9/token",
    }


def test_the_client_is_of_the_sites_region_and_the_computes_own_login(
    monkeypatch: pytest.MonkeyPatch, key: dict[str, Any]
) -> None:
    extra = {"keyfile_dict": json.dumps(key)}
    fields = {"conn_type": "google_cloud_platform", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_TRAINING", json.dumps(fields))
    client = vertex_client("site-a", site("training"))
    assert client.api_endpoint.startswith("europe-west1-aiplatform.googleapis.com")
    assert client.transport._credentials.service_account_email == "trainer@p.iam.gserviceaccount.com"


def test_a_connection_of_another_cloud_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_STORAGE", json.dumps({"conn_type": "aws"}))
    with pytest.raises(ConfigError, match="another kind"):
        vertex_client("site-a", site(None))
