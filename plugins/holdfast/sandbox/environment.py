"""What a process at a vantage point sees: addresses and credentials as environment variables.

Outside, every site is reached through the ways in of its proxy. Inside a site its own store and service are reached
directly, everything else through the ways out of its own proxy and then the ways in of the other's. So a site that
is cut off can neither be reached nor reach others, and goes on working within itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from holdfast.engine.config.environment_file import format_environment, parse_environment, read_environment_file
from holdfast.sandbox.airflow_connection import running_airflow
from holdfast.sandbox.azurite import ACCOUNT, KEY
from holdfast.sandbox.files import write_text
from holdfast.sandbox.layout import GCP_PROJECT, STATE_VARIABLE, TOPOLOGY_VARIABLE, Paths, SandboxSite, World
from holdfast.sandbox.ports import HOST

OUTSIDE = "outside"

__all__ = ["OUTSIDE", "build_environment", "parse_environment", "read_environment_file", "write_environments"]


def build_environment(world: World, paths: Paths, ports: dict[str, int], vantage: str = OUTSIDE) -> dict[str, str]:
    """The variables of a process at ``vantage``: ``outside`` or a site's name.

    Raises:
        UnknownName: there is no such site.
    """
    if vantage != OUTSIDE:
        world.site(vantage)
    environ = {STATE_VARIABLE: str(paths.state), TOPOLOGY_VARIABLE: str(world.topology)}
    for site in world.sites:
        url = f"http://{HOST}:{ports[_port_name(site.name, 'store', vantage)]}"
        environ[_connection_variable(site.connection)] = json.dumps(
            _connection(site, url, _trail(site, ports, vantage)), sort_keys=True
        )
        if site.cloud == "gcp":
            environ.setdefault("STORAGE_EMULATOR_HOST", url)
        environ[f"HOLDFAST_SERVICE_{site.variable}"] = (
            f"http://{HOST}:{ports[_port_name(site.name, 'service', vantage)]}"
        )
        # The port clients are sent to by DNS is the site's way in, whoever writes the record.
        environ[f"HOLDFAST_SERVICE_PORT_{site.variable}"] = str(ports[f"{site.name}/service"])
    if world.dns_site is not None:
        url = f"http://{HOST}:{ports[_dns_port_name(world.dns_site, vantage)]}"
        for connection in world.dns_connections:
            environ.setdefault(_connection_variable(connection), json.dumps(_google(url), sort_keys=True))
        environ["HOLDFAST_RESOLVER"] = f"{HOST}:{ports['resolver']}"
    if vantage == OUTSIDE:
        environ.update(running_airflow(paths.state))
    return environ


def write_environments(world: World, paths: Paths, ports: dict[str, int]) -> dict[str, dict[str, str]]:
    """Write ``env/<vantage>.env`` for every vantage point and return what they hold."""
    environments = {}
    for vantage in (OUTSIDE, *(site.name for site in world.sites)):
        environ = build_environment(world, paths, ports, vantage)
        write_text(
            environment_file(paths, vantage), format_environment(environ, comment=f"The sandbox seen from {vantage}")
        )
        environments[vantage] = environ
    return environments


def environment_file(paths: Paths, vantage: str) -> Path:
    return paths.env / f"{vantage}.env"


def _port_name(site: str, what: str, vantage: str) -> str:
    if vantage == OUTSIDE:
        return f"{site}/{what}"
    return f"{what}.{site}" if vantage == site else f"{vantage}/egress:{site}:{what}"


def _dns_port_name(dns_site: str, vantage: str) -> str:
    if vantage == OUTSIDE:
        return f"{dns_site}/dns"
    return "dns-api" if vantage == dns_site else f"{vantage}/egress:dns"


def _connection_variable(connection: str) -> str:
    return f"AIRFLOW_CONN_{connection.upper()}"


def _trail(site: SandboxSite, ports: dict[str, int], vantage: str) -> str | None:
    """Where CloudTrail's API of this site is, seen from there."""
    if site.cloud != "aws":
        return None
    if vantage == site.name:
        return f"http://{HOST}:{ports['trails']}"
    return f"http://{HOST}:{ports[_port_name(site.name, 'trail', vantage)]}"


def _connection(site: SandboxSite, url: str, trail: str | None) -> dict[str, Any]:
    if site.cloud == "aws":
        return _aws(site, url, trail)
    return _azure(url) if site.cloud == "azure" else _google(url)


def _aws(site: SandboxSite, url: str, trail: str | None) -> dict[str, Any]:
    # Without an endpoint of its own for STS, Airflow asks the real one (its test_connection does).
    return {
        "conn_type": "aws",
        "login": "sandbox",
        "password": "sandbox-secret",
        "extra": {
            "region_name": site.region,
            "endpoint_url": url,
            "config_kwargs": {
                "connect_timeout": 1,
                "read_timeout": 5,
                "retries": {"mode": "standard", "total_max_attempts": 2},
                "s3": {"addressing_style": "path"},
            },
            "service_config": {
                "s3": {"endpoint_url": url},
                "sts": {"endpoint_url": url},
                "cloudtrail": {"endpoint_url": trail},
            },
        },
    }


def _azure(url: str) -> dict[str, Any]:
    endpoint = f"{url}/{ACCOUNT}"
    return {
        "conn_type": "wasb",
        "login": ACCOUNT,
        "password": KEY,
        "host": endpoint,
        "extra": {
            "retry_total": 1,
            "initial_backoff": 1,
            "increment_base": 1,
            "connection_timeout": 1,
            "read_timeout": 5,
        },
    }


def _google(url: str) -> dict[str, Any]:
    # `endpoint_url` is Holdfast's own field: Airflow's Google connection has none.
    return {
        "conn_type": "google_cloud_platform",
        "extra": {"endpoint_url": url, "is_anonymous": True, "project": GCP_PROJECT},
    }
