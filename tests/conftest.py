"""Fixtures every test may use: the sandbox, its environment, a free port."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from zlib import crc32

import hypothesis
import pytest

from holdfast.sandbox import Sandbox
from holdfast.sandbox.ports import free_port as any_free_port

# Airflow settles on its home when it is first imported, which some tests do; it must not be the user's.
if "AIRFLOW_HOME" not in os.environ:
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="holdfast-tests-airflow-")
    atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)

# So must what a runtime keeps on this machine: the decisions of residency policies.
if "HOLDFAST_STATE" not in os.environ:
    os.environ["HOLDFAST_STATE"] = tempfile.mkdtemp(prefix="holdfast-tests-state-")
    atexit.register(shutil.rmtree, os.environ["HOLDFAST_STATE"], ignore_errors=True)

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("holdfast", deadline=None)
hypothesis.settings.load_profile("holdfast")

TOPOLOGY = Path(__file__).resolve().parents[1] / "include" / "holdfast.yaml"


#: One of so many parts of the slow tests is run, another one each day; all of them when it is not set.
SLOW_PARTS = "HOLDFAST_SLOW_PARTS"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "sandbox" in getattr(item, "fixturenames", ()):
            item.add_marker("sandbox")
    parts = int(os.environ.get(SLOW_PARTS, "1"))
    today = datetime.now(UTC).toordinal()
    left = [item for item in items if item.get_closest_marker("slow") and (crc32(item.nodeid.encode()) + today) % parts]
    if left:
        config.hook.pytest_deselected(items=left)
        gone = set(map(id, left))
        items[:] = [item for item in items if id(item) not in gone]


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox of this test process: three emulated clouds, without the sites' services. No test finds a fault set."""
    # The owner: when the test process is killed, the sandbox ends with it.
    box = Sandbox(tmp_path_factory.mktemp("sandbox"), topology=TOPOLOGY, owner_pid=os.getpid())
    box.up(timeout=120, agents=False)
    try:
        yield box
    finally:
        box.down()


@pytest.fixture(autouse=True)
def _no_fault_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "sandbox" in request.fixturenames:
        box = request.getfixturevalue("sandbox")
        # Open connections are reset, so that what a test sent into a black hole does not arrive in the next one.
        box.clear(drop=True)


@pytest.fixture
def sandbox_env(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The sandbox seen from outside, also set in ``os.environ`` for this test.

    ``sandbox.environment(site)`` is the same from within a site.
    """
    environ = sandbox.environment()
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return environ


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that names a port nobody listens on."""
    return any_free_port
