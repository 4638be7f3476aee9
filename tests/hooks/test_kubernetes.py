"""A site's cluster through the provider's hook: from the connection, from the settings, each with its own login."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.config import Site
from holdfast.errors import ConfigError
from holdfast.hooks.kubernetes import kubernetes_client


def site(connection: str | None = None, **settings: Any) -> Site:
    return Site(
        cloud="aws",
        region="eu-west-1",
        jurisdiction="EU",
        connection="cloud",
        bucket="bucket",
        compute={"kind": "kubernetes", "connection": connection, "kubernetes": {"image": "i", **settings}},
    )


def kubeconfig(host: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "first",
        "clusters": [
            {"name": "first", "cluster": {"server": f"https://{host}"}},
            {"name": "second", "cluster": {"server": f"https://second.{host}"}},
        ],
        "users": [{"name": "user", "user": {"token": f"token-of-{host}"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "user"}} for name in ("first", "second")],
    }


def define(monkeypatch: pytest.MonkeyPatch, conn_id: str, **fields: Any) -> str:
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))
    return conn_id


def test_two_connections_in_one_process_are_two_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        define(monkeypatch, name, conn_type="kubernetes", extra={"kube_config": json.dumps(kubeconfig(name))})
    one, two = kubernetes_client("a", site("one")), kubernetes_client("b", site("two"))
    assert (one.configuration.host, two.configuration.host) == ("https://one", "https://two")
    assert "token-of-one" in one.configuration.get_api_key_with_prefix("authorization", "BearerToken")


def test_without_a_connection_the_settings_say_which_kubeconfig_and_context(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(json.dumps(kubeconfig("here")))
    client = kubernetes_client("a", site(kubeconfig=str(tmp_path / "config"), context="second"))
    assert client.configuration.host == "https://second.here"


def test_a_connection_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    define(monkeypatch, "other", conn_type="aws")
    with pytest.raises(ConfigError, match="kubernetes"):
        kubernetes_client("a", site("other"))


@pytest.mark.parametrize("settings", [{"kubeconfig": "/does/not/exist"}, {"in_cluster": True}])
def test_a_login_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="login"):
        kubernetes_client("a", site(**settings))
