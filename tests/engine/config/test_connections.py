"""Connections from the environment, and that their secrets never show."""

from __future__ import annotations

import pytest

from holdfast.engine.config import EnvironmentConnections
from holdfast.errors import ConfigError


def test_a_connection_is_read_in_airflows_json_form() -> None:
    text = '{"conn_type": "aws", "login": "id", "password": "secret", "extra": {"region_name": "eu-west-1"}}'
    connection = EnvironmentConnections({"AIRFLOW_CONN_HOLDFAST_AWS": text}).get("holdfast_aws")
    assert (connection.login, connection.password, connection.extra) == ("id", "secret", {"region_name": "eu-west-1"})


def test_extra_may_be_a_json_string() -> None:
    connection = EnvironmentConnections({"AIRFLOW_CONN_A": '{"conn_type": "aws", "extra": "{\\"a\\": 1}"}'}).get("a")
    assert connection.extra == {"a": 1}


def test_a_missing_connection_names_the_variable_to_set() -> None:
    with pytest.raises(ConfigError, match="AIRFLOW_CONN_NOWHERE"):
        EnvironmentConnections({}).get("nowhere")


@pytest.mark.parametrize(
    "text",
    ["aws://id:topsecret@", '{"login": "topsecret"}', '["topsecret"]', '{"conn_type": "aws", "extra": "topsecret"}'],
)
def test_a_malformed_connection_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EnvironmentConnections({"AIRFLOW_CONN_A": text}).get("a")
    assert "topsecret" not in str(caught.value)


def test_a_secret_never_shows_in_a_repr() -> None:
    text = '{"conn_type": "aws", "password": "topsecret", "extra": {"aws_session_token": "topsecret"}}'
    assert "topsecret" not in repr(EnvironmentConnections({"AIRFLOW_CONN_A": text}).get("a"))
