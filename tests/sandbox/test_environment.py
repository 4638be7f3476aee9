"""What a process at each vantage point is given."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.sandbox import Sandbox
from holdfast.sandbox.airflow_connection import VARIABLE, airflow_folder
from holdfast.sandbox.environment import build_environment, read_environment_file
from holdfast.sandbox.files import write_json
from holdfast.sandbox.layout import Paths, read_world
from holdfast.sandbox.parts import port_names
from holdfast.sandbox.processes import identify

TOPOLOGY = Path(__file__).resolve().parents[2] / "include" / "holdfast.yaml"
VANTAGES = ("outside", "aws-eu-west-1", "gcp-europe-west1", "azure-westeurope")


@pytest.fixture
def world(tmp_path: Path):
    found = read_world(TOPOLOGY)
    ports = {name: 20_000 + index for index, name in enumerate(port_names(found))}
    return found, Paths(tmp_path), ports


@pytest.mark.parametrize("vantage", VANTAGES)
def test_the_topology_and_its_connections_load_from_every_vantage_point(world, vantage: str) -> None:
    environ = build_environment(*world, vantage)
    topology = load_topology(TOPOLOGY, environ)
    for site in topology.sites.values():
        assert EnvironmentConnections(environ).get(site.connection).extra
    for service in topology.services.values():
        assert EnvironmentConnections(environ).get(service.record.connection).extra["endpoint_url"]


def test_outside_leads_through_the_ways_in_and_a_site_through_its_own_ways_out(world) -> None:
    _, _, ports = world
    outside, inside = build_environment(*world), build_environment(*world, "aws-eu-west-1")

    def leads_to(environ: dict[str, str], name: str) -> int:
        found = json.loads(environ[f"AIRFLOW_CONN_{name}"])
        url = found["extra"].get("endpoint_url") or found["host"].rpartition("/")[0]
        return int(url.rpartition(":")[2])

    assert leads_to(outside, "HOLDFAST_AWS") == ports["aws-eu-west-1/store"]
    assert leads_to(inside, "HOLDFAST_AWS") == ports["store.aws-eu-west-1"]
    assert leads_to(inside, "HOLDFAST_GCP") == ports["aws-eu-west-1/egress:gcp-europe-west1:store"]
    assert leads_to(inside, "HOLDFAST_AZURE") == ports["aws-eu-west-1/egress:azure-westeurope:store"]
    assert leads_to(inside, "HOLDFAST_GCP_DNS") == ports["aws-eu-west-1/egress:dns"]
    assert leads_to(outside, "HOLDFAST_GCP_DNS") == ports["gcp-europe-west1/dns"]
    assert leads_to(build_environment(*world, "gcp-europe-west1"), "HOLDFAST_GCP_DNS") == ports["dns-api"]
    own = f"http://127.0.0.1:{ports['service.aws-eu-west-1']}"
    assert inside["HOLDFAST_SERVICE_AWS_EU_WEST_1"] == own != outside["HOLDFAST_SERVICE_AWS_EU_WEST_1"]


def test_dns_sends_clients_to_the_same_port_whoever_writes_the_record(world) -> None:
    _, _, ports = world
    found = {build_environment(*world, vantage)["HOLDFAST_SERVICE_PORT_AWS_EU_WEST_1"] for vantage in VANTAGES}
    assert found == {str(ports["aws-eu-west-1/service"])}


@pytest.mark.parametrize("vantage", VANTAGES)
def test_a_shell_and_the_reader_read_the_same_file(sandbox: Sandbox, vantage: str) -> None:
    file = sandbox.paths.env / f"{vantage}.env"
    shown = subprocess.run(["bash", "-c", f"set -a; . {file}; env -0"], env={}, capture_output=True, check=True).stdout
    by_shell = dict(line.split("=", 1) for line in shown.decode().split("\0") if line)
    environ = sandbox.environment(vantage)
    assert {name: by_shell[name] for name in environ} == environ == read_environment_file(file)


def test_credentials_are_readable_by_their_owner_alone(sandbox: Sandbox) -> None:
    for file in (*sandbox.paths.env.iterdir(), sandbox.paths.parts):
        assert file.stat().st_mode & 0o077 == 0


def test_the_connection_of_an_airflow_is_given_outside_while_it_runs(world) -> None:
    _, paths, _ = world
    me = identify(os.getpid())
    assert me is not None
    assert VARIABLE not in build_environment(*world)
    folder = airflow_folder(paths.state)
    write_json(folder / "settings.json", {"port": 4711, "password": "secret"})
    write_json(folder / "processes.json", {"api-server": [me.pid, me.started]})
    found = EnvironmentConnections(build_environment(*world)).get("holdfast_airflow")
    assert (found.conn_type, found.host, found.port, found.login) == ("http", "127.0.0.1", 4711, "admin")
    assert VARIABLE not in build_environment(*world, "aws-eu-west-1")
    write_json(folder / "processes.json", {"api-server": [me.pid, "another time"]})
    assert VARIABLE not in build_environment(*world)


def test_cloudtrails_api_is_reached_like_its_site(world) -> None:
    _, _, ports = world

    def port(vantage: str) -> int:
        extra = json.loads(build_environment(*world, vantage)["AIRFLOW_CONN_HOLDFAST_AWS"])["extra"]
        return int(extra["service_config"]["cloudtrail"]["endpoint_url"].rpartition(":")[2])

    assert port("outside") == ports["aws-eu-west-1/trail"]
    assert port("aws-eu-west-1") == ports["trails"]
    assert port("gcp-europe-west1") == ports["gcp-europe-west1/egress:aws-eu-west-1:trail"]
