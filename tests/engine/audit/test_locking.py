"""Every object of a seal is locked, at each site, until the moment its manifest says."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from audit_world import AuditWorld, FakeSource, event
from holdfast.engine.audit.export import open_ledger
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.vault.locks import LockMode


class Locks:
    """Of one site, a folder: what was locked until when."""

    def __init__(self, ledger: Path) -> None:
        self.ledger = ledger
        self.locked: dict[str, tuple[datetime, LockMode]] = {}

    def capability(self) -> Any:
        return SimpleNamespace(enforces=True, why="")

    def extend(self, key: str, until: datetime, mode: LockMode) -> None:
        if not (self.ledger / key).exists():
            raise ObjectNotFound("there is no such object", where=key)
        self.locked[key] = (until, mode)


@pytest.mark.parametrize("stamped", [False, True])
def test_every_object_of_a_seal_is_locked_at_every_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stamped: bool
) -> None:
    world = AuditWorld(tmp_path, FakeSource([[[event(n) for n in range(5)]]] * 3))
    document = yaml.safe_load(world.topology.read_text())
    document["audit"] |= {"lock_mode": "compliance", "retention": ["sec-17a-4-f"]}
    if stamped:
        document["audit"]["timestamps"] = {"url": "http://127.0.0.1/", "roots": "roots.pem"}
    world.topology.write_text(yaml.safe_dump(document))
    sites: dict[str, Locks] = {}

    def stamp(_runtime: Any, settings: Any, sealed: Any) -> None:
        if settings.timestamps:
            (sealed.folder / "checkpoint.tsr").write_bytes(b"an answer")

    monkeypatch.setattr("holdfast.engine.audit.export._timestamp", stamp)
    monkeypatch.setattr(
        "holdfast.engine.audit.locking.locks_at",
        lambda _runtime, site, below: sites.setdefault(site, Locks(tmp_path / site / below)),
    )
    done = world.export()
    for site, store in open_ledger(world.runtime()).stores.items():
        there = {info.key for info in store.list() if not info.key.startswith("tile/")}
        assert set(sites[site].locked) == there
        assert set(sites[site].locked.values()) == {(done.manifest.retention.until, LockMode.COMPLIANCE)}
    assert all(said.startswith("locked until") for said in done.locked.values())
