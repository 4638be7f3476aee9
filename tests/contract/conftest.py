"""The backends of the contract: one store per test, each under a prefix of its own.

A real cloud takes part when its variables are set (docs/reference/object-stores.md#a-real-cloud).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.config import Cloud, Connection, EnvironmentConnections, Site, load_topology
from holdfast.engine.objectstore import (
    ObjectStore,
    RetryingStore,
    RetryPolicy,
    StoreAccess,
    local_store,
    memory_store,
    open_store,
)
from holdfast.engine.objectstore.encrypted import EncryptedStore, Scope
from holdfast.engine.objectstore.envelope import KeyRing
from holdfast.engine.objectstore.faults import Chance, FaultyStore, Kind
from holdfast.engine.objectstore.meter import Meter, MeteredStore
from holdfast.engine.objectstore.throttle import ThrottledStore

TOPOLOGY = Path(__file__).resolve().parents[2] / "include" / "holdfast.yaml"
SITES = {"s3": "aws-eu-west-1", "gcs": "gcp-europe-west1", "azure": "azure-westeurope"}
CLOUDS = {"s3": Cloud.AWS, "gcs": Cloud.GCP, "azure": Cloud.AZURE}
REAL = {"s3": "AWS", "gcs": "GCP", "azure": "AZURE"}

EMBEDDED = ("memory", "local")
DIRECT = tuple(f"{name}-direct" for name in SITES)
PROXIED = tuple(f"{name}-proxied" for name in SITES)
STACKED = ("memory-stacked", "s3-stacked", "memory-encrypted", "azure-encrypted")
REAL_CLOUDS = tuple(
    f"{name}-real" for name, cloud in REAL.items() if os.environ.get(f"HOLDFAST_CONTRACT_{cloud}_BUCKET")
)
BACKENDS = (*EMBEDDED, *DIRECT, *PROXIED, *STACKED, *REAL_CLOUDS)

Opener = Callable[..., ObjectStore]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(backend: str, open_backend: Callable[[str], ObjectStore]) -> ObjectStore:
    return open_backend(backend)


@pytest.fixture
def open_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], ObjectStore]:
    """Opens a backend by its name; each call is a new prefix."""

    def open_it(backend: str) -> ObjectStore:
        name, _, how = backend.partition("-")
        if backend == "memory":
            return memory_store(prefix="contract")
        if backend == "local":
            folder = tmp_path / uuid.uuid4().hex
            folder.mkdir()
            return local_store("local", folder)
        if how == "stacked":
            return stacked(open_it("memory" if name == "memory" else f"{name}-direct"))
        if how == "encrypted":
            below = RetryingStore(open_it("memory" if name == "memory" else f"{name}-direct"))
            return EncryptedStore(below, [Scope("", "contract", lambda: KeyRing((bytes(32),)))])
        if how == "real":
            return real_store(name)
        box = request.getfixturevalue("sandbox")
        environ = box.environment(SITES[name] if how == "direct" else "outside")
        return open_store(SITES[name], fresh(site_of(name, environ)), connection(environ, name), retry=None)

    return open_it


def stacked(store: ObjectStore) -> ObjectStore:
    """Every decorator at once, over a store that breaks off every second stream it is asked for."""
    chance = Chance(random.Random(7), {Kind.BREAK: 0.5})
    policy = RetryPolicy(attempts=12, budget_seconds=60, first_delay_seconds=0.001, longest_delay_seconds=0.01)
    retrying = RetryingStore(FaultyStore(store, chance), policy, rng=random.Random(1))
    return MeteredStore(ThrottledStore(retrying, requests_per_second=50_000, bytes_per_second=1e10), Meter())


def site_of(name: str, environ: dict[str, str], **changes: Any) -> Site:
    """The sandbox's site of a cloud, changed."""
    return load_topology(TOPOLOGY, environ).site(SITES[name]).model_copy(update=changes)


def fresh(site: Site) -> Site:
    return site.model_copy(update={"prefix": f"contract/{uuid.uuid4().hex}"})


def connection(environ: dict[str, str], name: str, **changes: Any) -> Connection:
    """The sandbox's connection of a cloud, changed."""
    found = EnvironmentConnections(environ).get(site_of(name, environ).connection)
    return found.model_copy(update=changes)


def real_store(name: str) -> ObjectStore:
    """A bucket of a real cloud, with the environment's own credentials."""
    prefix = f"HOLDFAST_CONTRACT_{REAL[name]}"
    site = Site(
        cloud=CLOUDS[name],
        region=os.environ.get(f"{prefix}_REGION", "eu-west-1"),
        jurisdiction="EU",
        connection="none",
        bucket=os.environ[f"{prefix}_BUCKET"],
        prefix=f"holdfast-contract/{uuid.uuid4().hex}",
    )
    account = os.environ.get(f"{prefix}_ACCOUNT")
    return open_store(f"real-{name}", site, StoreAccess(options={"account_name": account} if account else {}))


@pytest.fixture(scope="session")
def strict_moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """moto that checks credentials; it knows none, so all are wrong."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environ = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "0"}
    with _running(command, f"http://127.0.0.1:{port}/moto-api/", tmp_path_factory.mktemp("moto"), environ) as url:
        yield url.removesuffix("/moto-api/")


@pytest.fixture(scope="session")
def strict_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The project's GCS server, letting in one token that nobody has."""
    port, folder = _free_port(), tmp_path_factory.mktemp("gcs")
    command = [
        sys.executable,
        "-m",
        "holdfast.sandbox.gcs",
        "--port",
        str(port),
        "--data",
        str(folder),
        "--require-token",
        uuid.uuid4().hex,
    ]
    with _running(command, f"http://127.0.0.1:{port}/", folder, dict(os.environ)) as url:
        yield url.rstrip("/")


def _free_port() -> int:
    from holdfast.sandbox.ports import free_port

    return free_port()


class _running:
    """A server for as long as it is needed."""

    def __init__(self, command: list[str], url: str, folder: Path, environ: dict[str, str]) -> None:
        self._log = (folder / "server.log").open("wb")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=environ)
        self._url = url

    def __enter__(self) -> str:
        from urllib.error import HTTPError, URLError

        clock = SystemClock()
        deadline = clock.monotonic() + 60
        while True:
            try:
                urlopen(self._url, timeout=1).close()
                return self._url
            except HTTPError:  # it answers
                return self._url
            except (URLError, OSError):
                if self._process.poll() is not None or clock.monotonic() > deadline:
                    self.__exit__()
                    pytest.fail(f"{self._process.args} did not come up; see {self._log.name}")
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._log.close()


@pytest.fixture
def contract() -> Any:
    """The helpers of this file."""
    from types import SimpleNamespace

    return SimpleNamespace(fresh=fresh, site_of=site_of, connection=connection)
