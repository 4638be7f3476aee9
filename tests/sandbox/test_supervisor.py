"""The sandbox comes up, stays up, and goes down without a trace."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.engine.audit.remembered import home_at, verified_at
from holdfast.errors import ConfigError, UnknownName
from holdfast.sandbox import Sandbox
from holdfast.sandbox.errors import BadFault, MissingTool, PartFailed, PortTaken, SandboxNotUp
from holdfast.sandbox.files import write_json
from holdfast.sandbox.keeper import read_runs
from holdfast.sandbox.processes import Identity, identify
from holdfast.sandbox.supervisor import SandboxError
from proxied import wait_until

HOST = "127.0.0.1"
ONE_SITE = """
version: 1
sites:
  gcp-here: {cloud: gcp, region: europe-west1, jurisdiction: EU, connection: here, bucket: the-bucket}
groups: {}
"""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox of one site, which starts fast; not up yet."""
    topology = tmp_path / "topology.yaml"
    topology.write_text(ONE_SITE)
    box = Sandbox(tmp_path / "state", topology=topology, owner_pid=os.getpid())
    yield box
    box.down()


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox of its own for tests that kill parts: moto forgets everything when it dies."""
    topology = Path(__file__).resolve().parents[2] / "include" / "holdfast.yaml"
    box = Sandbox(tmp_path_factory.mktemp("mortal"), topology=topology, owner_pid=os.getpid())
    box.up(120, agents=False)
    yield box
    box.down()


def ask(url: str, path: str, method: str = "GET", body: bytes | None = None, timeout: float = 5.0) -> tuple[int, bytes]:
    # moto reads who asks out of a signature it does not check; the others do not care.
    signed = {
        "Authorization": "AWS4-HMAC-SHA256 Credential=sandbox/20260101/eu-west-1/s3/aws4_request, "
        "SignedHeaders=host, Signature=0"
    }
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=signed)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def store_url(box: Sandbox, connection: str, vantage: str = "outside") -> str:
    found = json.loads(box.environment(vantage)[f"AIRFLOW_CONN_{connection}"])
    return found["extra"].get("endpoint_url") or found["host"].rpartition("/")[0]


def processes_of(box: Sandbox) -> list[Identity]:
    found = [run.identity for run in read_runs(box.paths).values()]
    keeper = json.loads(box.paths.keeper.read_text())
    return [one for one in [*found, Identity(**keeper)] if one is not None]


# -- up, down, up again ----------------------------------------------------------------------------------------------


def test_up_twice_starts_nothing_twice(small: Sandbox) -> None:
    first = small.up(60, agents=False)
    second = small.up(60, agents=False)
    assert first.up
    assert [part.pid for part in first.parts] == [part.pid for part in second.parts]
    assert first.keeper_pid == second.keeper_pid
    assert {part.kind for part in first.parts} == {"store", "proxy", "dns", "trails"}


def test_two_ups_at_once_start_one_sandbox(small: Sandbox) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: small.up(120, agents=False), range(3)))
    assert len({tuple(part.pid for part in status.parts) for status in found}) == 1
    assert len({status.keeper_pid for status in found}) == 1
    assert all(part.restarts == 0 for part in found[0].parts)


def test_a_fault_finds_a_proxy_that_was_just_killed(small: Sandbox) -> None:
    status = small.up(60, agents=False)
    os.kill(status.part("proxy.gcp-here").pid, signal.SIGKILL)
    small.fault("gcp-here", "down")
    assert small.status().site("gcp-here").mode == "down"


def test_down_leaves_no_process_and_the_next_up_the_same_ports_and_data(small: Sandbox) -> None:
    before = small.up(60, agents=False)
    url = store_url(small, "HERE")
    assert ask(url, "/upload/storage/v1/b/the-bucket/o?uploadType=media&name=x", "POST", b"kept")[0] == 200
    running = processes_of(small)
    assert len(running) == len(before.parts) + 1
    small.down()
    assert not any(one.alive for one in running)
    with pytest.raises(ConnectionRefusedError):
        ask(url, "/")
    small.down()  # twice is no error
    after = small.up(60, agents=False)
    assert [part.address for part in after.parts] == [part.address for part in before.parts]
    assert ask(url, "/storage/v1/b/the-bucket/o/x?alt=media") == (200, b"kept")
    small.down(wipe=True)
    assert not small.paths.data.exists()


def test_wiping_forgets_the_ledger_that_is_wiped_and_no_other(small: Sandbox, tmp_path: Path) -> None:
    topology = tmp_path / "topology.yaml"
    topology.write_text(ONE_SITE + "audit: {origin: example.com/here}\n")
    write_json(small.paths.sandbox, {"format": 1, "topology": str(topology)})
    kept = []
    for origin in ("example.com/here", "example.com/there"):
        home, checkpoint = home_at(small.paths.state, origin), verified_at(small.paths.state, origin)
        kept.append((home / "head.json", checkpoint, checkpoint.with_suffix(".seal")))
        for file in kept[-1]:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{}")
    small.down()
    assert all(file.exists() for files in kept for file in files)
    small.down(wipe=True)
    assert [[file.exists() for file in files] for files in kept] == [[False] * 3, [True] * 3]


def test_everything_it_writes_lies_under_its_state_folder(small: Sandbox) -> None:
    small.up(60, agents=False)
    opened = {
        link.resolve()
        for one in processes_of(small)
        for link in Path(f"/proc/{one.pid}/fd").iterdir()
        if link.resolve().is_file() and _is_writable(one.pid, link.name)
    }
    assert opened
    assert all(path.is_relative_to(small.paths.state) for path in opened)


def _is_writable(pid: int, fd: str) -> bool:
    flags = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().split("flags:")[1].split()[0]
    return int(flags, 8) & (os.O_WRONLY | os.O_RDWR) != 0


def test_every_part_listens_on_loopback_alone(mortal: Sandbox) -> None:
    ours = {int(part.address.partition(":")[2]) for part in mortal.status().parts}
    listening = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":
            address, port = fields[1].split(":")
            listening.setdefault(int(port, 16), set()).add(address)
    assert all(listening[port] == {"0100007F"} for port in ours)


def test_two_sandboxes_run_side_by_side(small: Sandbox, mortal: Sandbox) -> None:
    small.up(60, agents=False)
    ports = [{part.address for part in box.status().parts} for box in (small, mortal)]
    assert not ports[0] & ports[1]
    small.fault("gcp-here", "down")
    assert {site.mode for site in mortal.status().sites} == {"up"}
    small.down()
    assert mortal.status().up


def test_when_its_owner_dies_everything_stops(tmp_path: Path) -> None:
    topology = tmp_path / "topology.yaml"
    topology.write_text(ONE_SITE)
    script = (
        "import os, sys; from holdfast.sandbox import Sandbox\n"
        f"box = Sandbox({str(tmp_path / 'state')!r}, topology={str(topology)!r}, owner_pid=os.getpid())\n"
        "box.up(60, agents=False)\n"
        "print('up', flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=90)
    assert done.stdout == "up\n", done.stderr
    box = Sandbox(tmp_path / "state")
    wait_until(lambda: not any(run.alive for run in read_runs(box.paths).values()) and not box.is_up)
    with pytest.raises(SandboxNotUp):
        box.fault("gcp-here", "down")


# -- kill -9 ---------------------------------------------------------------------------------------------------------

PARTS = (
    "store.aws-eu-west-1",
    "store.gcp-europe-west1",
    "store.azure-westeurope",
    "proxy.aws-eu-west-1",
    "proxy.gcp-europe-west1",
    "proxy.azure-westeurope",
    "dns-api",
    "resolver",
)


@pytest.mark.parametrize("name", PARTS)
def test_a_killed_part_comes_back_on_its_own(mortal: Sandbox, name: str) -> None:
    before = mortal.status().part(name)
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: mortal.status().part(name).healthy and mortal.status().part(name).pid != before.pid, 60)
    after = mortal.status().part(name)
    assert after.restarts == before.restarts + 1
    assert after.address == before.address


def test_a_killed_moto_has_its_bucket_again_and_nothing_in_it(mortal: Sandbox) -> None:
    url = store_url(mortal, "HOLDFAST_AWS")
    assert ask(url, "/holdfast-eu-west-1/x", "PUT", b"lost")[0] == 200
    before = mortal.status().part("store.aws-eu-west-1")
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: mortal.status().part("store.aws-eu-west-1").restarts > before.restarts)
    mortal.up(60, agents=False)
    assert ask(url, "/holdfast-eu-west-1/x")[0] == 404
    assert ask(url, "/holdfast-eu-west-1")[0] == 200


def test_a_killed_dns_api_has_lost_no_record(mortal: Sandbox) -> None:
    url = store_url(mortal, "HOLDFAST_GCP_DNS")
    zone = "/dns/v1/projects/holdfast-sandbox/managedZones/holdfast-sandbox"
    change = {"additions": [{"name": "kept.holdfast.test.", "type": "A", "ttl": 1, "rrdatas": ["127.0.0.9"]}]}
    assert ask(url, f"{zone}/changes", "POST", json.dumps(change).encode())[0] == 200
    before = mortal.status().part("dns-api")
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: mortal.status().part("dns-api").restarts > before.restarts)
    mortal.up(60, agents=False)
    assert b"127.0.0.9" in ask(url, f"{zone}/rrsets/kept.holdfast.test./A")[1]


def test_a_killed_keeper_is_replaced_by_up_and_the_parts_do_not_notice(mortal: Sandbox) -> None:
    before = mortal.status()
    os.kill(before.keeper_pid, signal.SIGKILL)
    wait_until(lambda: not mortal.is_up)
    assert not mortal.status().up
    after = mortal.up(60, agents=False)
    assert after.keeper_pid != before.keeper_pid
    assert [part.pid for part in after.parts] == [part.pid for part in before.parts]
    # The new keeper keeps what the old one started.
    part = after.part("resolver")
    os.kill(part.pid, signal.SIGKILL)
    wait_until(lambda: mortal.status().part("resolver").restarts > part.restarts)


def test_a_part_that_was_not_written_down_is_taken_over_and_stopped(small: Sandbox) -> None:
    """As when the keeper is killed between starting a part and writing down its pid."""
    before = small.up(60, agents=False)
    for name, forgotten in (("store.gcp-here", True), ("resolver", False)):
        keeper = Identity(**json.loads(small.paths.keeper.read_text()))
        keeper.signal(signal.SIGKILL)
        wait_until(lambda alive=keeper: not alive.alive)
        (small.paths.run / f"{name}.json").unlink()
        if forgotten:
            assert small.up(60, agents=False).part(name).pid == before.part(name).pid
    small.down()
    for part in before.parts:
        assert identify(part.pid) is None


def test_a_process_that_took_over_a_pid_is_never_killed() -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        mine = identify(bystander.pid)
        recycled = Identity(bystander.pid, "another start time")
        assert not recycled.alive
        assert not recycled.signal(signal.SIGKILL)
        assert bystander.poll() is None
        assert mine.signal(signal.SIGKILL)
        bystander.wait(10)


# -- faults ----------------------------------------------------------------------------------------------------------


def test_a_site_that_is_down_is_cut_both_ways_and_lives_within(sandbox: Sandbox) -> None:
    aws, gcp = "aws-eu-west-1", "gcp-europe-west1"
    sandbox.fault(aws, "down")
    assert sandbox.status().site(aws).mode == "down"
    for vantage in ("outside", gcp, "azure-westeurope"):
        with pytest.raises(ConnectionError):
            ask(store_url(sandbox, "HOLDFAST_AWS", vantage), "/holdfast-eu-west-1")
    for connection in ("HOLDFAST_GCP", "HOLDFAST_AZURE", "HOLDFAST_GCP_DNS"):
        with pytest.raises(ConnectionError):
            ask(store_url(sandbox, connection, aws), "/")
    # Within the site the network works: it may well think that the others are gone.
    assert ask(store_url(sandbox, "HOLDFAST_AWS", aws), "/holdfast-eu-west-1/from-within", "PUT", b"x")[0] == 200
    assert ask(store_url(sandbox, "HOLDFAST_GCP", "azure-westeurope"), "/storage/v1/b/holdfast-europe-west1")[0] == 200
    sandbox.clear(aws)
    assert ask(store_url(sandbox, "HOLDFAST_AWS"), "/holdfast-eu-west-1/from-within") == (200, b"x")


def test_a_gcp_site_that_is_down_takes_the_dns_api_with_it_but_not_the_names(sandbox: Sandbox) -> None:
    import dns.resolver

    sandbox.fault("gcp-europe-west1", "down")
    for vantage in ("outside", "aws-eu-west-1"):
        with pytest.raises(ConnectionError):
            ask(store_url(sandbox, "HOLDFAST_GCP_DNS", vantage), "/dns/v1/projects/holdfast-sandbox/managedZones")
    url = store_url(sandbox, "HOLDFAST_GCP_DNS", "gcp-europe-west1")
    assert ask(url, "/dns/v1/projects/holdfast-sandbox/managedZones")[0] == 200
    resolver = dns.resolver.Resolver(configure=False)
    host, _, port = sandbox.environment()["HOLDFAST_RESOLVER"].partition(":")
    resolver.nameservers, resolver.port = [host], int(port)
    assert resolver.resolve("aws-eu-west-1.holdfast.test.", "A")[0].address == "127.0.0.1"


def test_a_frozen_store_hangs_and_goes_on_where_it_was(sandbox: Sandbox) -> None:
    url = store_url(sandbox, "HOLDFAST_AWS")
    assert ask(url, "/holdfast-eu-west-1/frozen", "PUT", b"kept")[0] == 200
    sandbox.freeze("aws-eu-west-1", "store")
    assert sandbox.status().part("store.aws-eu-west-1").state == "frozen"
    assert sandbox.status().site("aws-eu-west-1").mode == "frozen"
    with pytest.raises(TimeoutError):
        ask(url, "/holdfast-eu-west-1/frozen", timeout=0.3)
    sandbox.thaw("aws-eu-west-1")
    assert ask(url, "/holdfast-eu-west-1/frozen") == (200, b"kept")


def test_a_destroyed_store_stays_down_and_comes_back_empty(mortal: Sandbox) -> None:
    url = store_url(mortal, "HOLDFAST_GCP")
    name = "store.gcp-europe-west1"
    assert ask(url, "/upload/storage/v1/b/holdfast-europe-west1/o?uploadType=media&name=x", "POST", b"x")[0] == 200
    restarts = mortal.status().part(name).restarts
    mortal.fault("gcp-europe-west1", "destroyed")
    assert not (mortal.paths.data / "gcp-europe-west1").exists()
    assert mortal.up(60, agents=False).part(name).state == "destroyed"  # also across an up
    with pytest.raises(OSError):
        ask(url, "/storage/v1/b/holdfast-europe-west1")
    mortal.clear("gcp-europe-west1")
    assert mortal.status().part(name).restarts == restarts
    assert ask(url, "/storage/v1/b/holdfast-europe-west1/o/x?alt=media")[0] == 404
    assert ask(url, "/storage/v1/b/holdfast-europe-west1")[0] == 200


# -- bad input -------------------------------------------------------------------------------------------------------


def test_a_site_or_mode_that_is_not_there_changes_nothing(sandbox: Sandbox) -> None:
    with pytest.raises(UnknownName, match="aws-eu-west-1"):
        sandbox.fault("atlantis", "down")
    with pytest.raises(UnknownName):
        sandbox.clear("atlantis")
    with pytest.raises(UnknownName):
        sandbox.environment("atlantis")
    for arguments in (
        {"mode": "sideways"},
        {"mode": "latency"},
        {"mode": "down", "direction": "up"},
        {"mode": "down", "listener": "door"},
        {"mode": "frozen", "listener": "door"},
        {"mode": "destroyed", "direction": "egress"},
        {"mode": "destroyed", "listener": "service"},
    ):
        with pytest.raises(BadFault):
            sandbox.fault("aws-eu-west-1", **arguments)
    assert {site.mode for site in sandbox.status().sites} == {"up"}


def test_a_sandbox_that_is_down_says_so(small: Sandbox) -> None:
    for call in (lambda: small.fault("gcp-here", "down"), small.clear, small.environment):
        with pytest.raises(SandboxNotUp, match="holdfast sandbox up"):
            call()
    status = small.status()
    assert not status.up
    assert status.parts == ()


def test_a_port_somebody_took_is_named(small: Sandbox) -> None:
    small.up(60, agents=False)
    address = small.status().part("store.gcp-here").address
    small.down()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((HOST, int(address.partition(":")[2])))
        other.listen()
        with pytest.raises(PortTaken, match=address):
            small.up(60, agents=False)
    small.up(60, agents=False)
    assert small.status().up


def test_a_missing_azurite_is_named_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_AZURITE", str(tmp_path / "nowhere"))
    box = Sandbox(tmp_path / "state", topology=Path(__file__).resolve().parents[2] / "include" / "holdfast.yaml")
    with pytest.raises(MissingTool, match="npm ci"):
        box.up(60)
    assert not box.is_up
    assert not box.paths.sandbox.exists()


def test_a_part_that_cannot_start_is_reported_with_its_log(small: Sandbox) -> None:
    small.paths.data.mkdir(parents=True)
    (small.paths.data / "gcp-here").write_text("a file where the store's folder belongs")
    with pytest.raises(PartFailed, match=r"store\.gcp-here did not come up"):
        small.up(60, agents=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sites: [", "no YAML"),
        ("- a", "not a mapping"),
        ("sites: {}", "no sites"),
        ("sites: {a: {cloud: mars, region: r, bucket: b, connection: c}}", "cannot emulate"),
        ("sites: {a: {cloud: aws, region: r, bucket: '${B}', connection: c}}", "plain value"),
        (
            "sites: {a: &s {cloud: aws, region: r, bucket: b, connection: c}, b: *s}",
            "share one connection",
        ),
    ],
)
def test_a_topology_it_cannot_emulate_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        Sandbox(tmp_path / "state", topology=tmp_path / "t.yaml").up(60)


def test_a_state_folder_that_cannot_be_written_or_is_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        Sandbox(tmp_path / "file").up(60)
    box = Sandbox(tmp_path / "state")
    box.paths.root.mkdir(parents=True)
    box.paths.sandbox.write_text('{"format": 99}')
    with pytest.raises(SandboxError, match="another version"):
        box.up(60)
