"""A provider's service stages, Holdfast verifies and publishes: also what the service bends, forgets or fails at."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from folders import FolderRuntime, folder_runtime, make_folders
from holdfast.engine.config import Connection
from holdfast.engine.pipeline import engines, replicas, sync
from holdfast.engine.replication.movers import Hop, Moved
from holdfast.errors import ConfigError


class Copier:
    """A transfer service between folders. What it does wrong is told to it."""

    name = "copier"

    def __init__(self, hop: Hop, faults: dict[str, Any]) -> None:
        self.hop, self.faults, self.asked = hop, faults, []
        faults.setdefault("asked", []).append(self.asked)

    def begin(self, names: Sequence[str]) -> str:
        self.asked += names
        for name in names:
            if name in self.faults.get("forgets", ()):
                continue
            here = Path(self.hop.source.bucket) / self.hop.source_prefix() / name
            there = Path(self.hop.target.bucket) / self.hop.target_prefix() / name
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(here, there)
            if name in self.faults.get("bends", ()):
                there.write_bytes(bytes(len(there.read_bytes())))
        return "one"

    def look(self, handle: str) -> Moved:
        return Moved("failed", "told to") if self.faults.get("fails") else Moved("done")

    def cancel(self, handle: str) -> None:
        raise AssertionError("nothing to cancel")


class NoConnections:
    def get(self, conn_id: str) -> Connection:
        return Connection(conn_id=conn_id, conn_type="none")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the service does wrong; it serves one site alone."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(
        engines, "open_mover", lambda _engine, hop: Copier(hop, found) if hop.target_site == "site-b" else "not there"
    )
    return found


@pytest.fixture
def runtime(tmp_path: Path) -> FolderRuntime:
    topology = make_folders(tmp_path, prices={"sync": {"engine": "datasync"}})
    (tmp_path / "site-a" / "data" / "prices").mkdir(parents=True)
    for number in range(10):
        put(tmp_path, f"part-{number}.bin", bytes([number + 1]) * 100)
    put(tmp_path, "_SUCCESS", b"")
    made = folder_runtime(topology)
    made.connections = NoConnections()
    return made


def put(folder: Path, name: str, data: bytes) -> None:
    (folder / "site-a" / "data" / "prices" / name).write_bytes(data)


def run(runtime: FolderRuntime) -> dict[str, int]:
    report = sync.require_synced(runtime, "desk", "prices", sync.run(runtime, "desk", "prices"))
    assert all(one.ok for one in replicas.verify_everywhere(runtime, "desk", "prices"))
    return {one.site: one.copied_objects for one in report.targets}


def test_what_the_service_staged_is_verified_and_published_without_being_copied_again(
    runtime: FolderRuntime, faults: dict[str, Any], tmp_path: Path
) -> None:
    assert run(runtime) == {"site-b": 1, "site-c": 11}  # _SUCCESS belongs last
    put(tmp_path, "part-3.bin", b"newer")
    assert run(runtime) == {"site-b": 0, "site-c": 1}
    assert faults["asked"][1] == ["part-3.bin"]
    assert run(runtime) == {"site-b": 0, "site-c": 0}


def test_what_it_bent_or_forgot_is_copied_by_holdfast(runtime: FolderRuntime, faults: dict[str, Any]) -> None:
    faults |= {"bends": ["part-1.bin"], "forgets": ["part-2.bin", "part-4.bin"]}
    assert run(runtime) == {"site-b": 4, "site-c": 11}


def test_a_service_that_fails_is_no_failure_of_the_run(runtime: FolderRuntime, faults: dict[str, Any]) -> None:
    faults |= {"fails": True, "forgets": [f"part-{number}.bin" for number in range(5)]}
    assert run(runtime) == {"site-b": 6, "site-c": 11}


def test_nothing_staged_is_visible_before_it_is_published(
    runtime: FolderRuntime, faults: dict[str, Any], tmp_path: Path
) -> None:
    engines.stage(runtime, "desk", "prices", engines_state(runtime))
    assert replicas.snapshots(runtime, "desk", "prices", site="site-b") == ()
    own = [path for path in (tmp_path / "site-b" / "data" / "prices").iterdir() if path.name != ".versions"]
    assert own == []


def engines_state(runtime: FolderRuntime) -> Any:
    return runtime.authority("desk").read("desk")


@pytest.mark.parametrize("engine", ["datasync", "storage-transfer", "azcopy"])
def test_a_service_that_serves_no_pair_of_sites_is_told_before_anything_moves(tmp_path: Path, engine: str) -> None:
    made = folder_runtime(make_folders(tmp_path, prices={"sync": {"engine": engine}}))
    made.connections = NoConnections()
    with pytest.raises(ConfigError, match="cannot move the dataset anywhere"):
        sync.run(made, "desk", "prices")
    assert list((tmp_path / "site-b").iterdir()) == []
