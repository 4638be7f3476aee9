"""Every object of a seal is locked, at each site, until the moment its manifest says."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from audit_world import HOUR, AuditWorld, FakeSource, add_audit, event
from holdfast.engine.audit.export import Exported, open_ledger
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.vault.locks import LockMode


class Locks:
    """Of one site, a folder: what was locked until when."""

    def __init__(self, ledger: Path) -> None:
        self.ledger = ledger
        self.enforces = True
        self.locked: dict[str, tuple[datetime, LockMode]] = {}

    def capability(self) -> Any:
        return SimpleNamespace(enforces=self.enforces, why="the bucket has no Object Lock")

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
    assert done.problems == ()


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Locks]:
    """Of the sites of a ledger, each a folder."""
    sites = {site: Locks(tmp_path / site / "ledger") for site in ("site-b", "site-c")}
    monkeypatch.setattr("holdfast.engine.audit.locking.locks_at", lambda _runtime, site, below: sites[site])
    return sites


@pytest.fixture
def world(tmp_path: Path) -> AuditWorld:
    made = AuditWorld(tmp_path, FakeSource([[[event(10 * hour + n) for n in range(5)]] for hour in range(40)]))
    add_audit(made.topology, lock_mode="compliance", retention=["fca"])
    return made


def export(world: AuditWorld) -> Exported:
    done = world.export()
    world.clock.advance(HOUR.total_seconds())
    return done


def told(done: Exported) -> list[tuple[str, str, str | None]]:
    return [(one.where, one.what.rpartition(": ")[2], one.found) for one in done.problems if one.code == "not-locked"]


def locked_seals(locks: Locks) -> list[str]:
    return sorted(key.removeprefix("seals/") for key in locks.locked if key.startswith("seals/"))


def test_a_lock_that_was_asked_for_and_not_set_is_told_and_made_up_for(
    world: AuditWorld, locks: dict[str, Locks]
) -> None:
    why = "the bucket has no Object Lock"
    locks["site-c"].enforces = False
    assert told(export(world)) == [("site-c", "seal 0", why)]
    for _ in range(2):
        done = export(world)
    assert told(done) == [("site-c", "3 seals, 0 to 2", why)]
    assert (done.exit_code, done.locked["site-b"][:6], done.locked["site-c"]) == (0, "locked", f"not locked: {why}")
    assert done.to_json()["problems"][0]["found"] == why

    locks["site-c"].enforces = True
    assert told(export(world)) == []
    for store in open_ledger(world.runtime()).stores.values():
        there = {info.key for info in store.list() if not info.key.startswith("tile/")}
        assert set(locks["site-c"].locked) == set(locks["site-b"].locked) == there


def test_few_seals_are_locked_again_at_once(
    world: AuditWorld, locks: dict[str, Locks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.engine.audit.locking._AT_ONCE", 2)
    locks["site-c"].enforces = False
    for _ in range(5):
        export(world)
    locks["site-c"].enforces = True
    done = export(world)
    assert told(done) == [("site-c", "2 seals, 2 to 3", "it was not tried again yet")]
    assert told(export(world)) == []
    assert locked_seals(locks["site-c"]) == locked_seals(locks["site-b"])


def test_seals_of_a_site_that_was_away_are_locked_when_it_is_back(world: AuditWorld, locks: dict[str, Locks]) -> None:
    away = world.folder / "site-c"
    held = away.rename(world.folder / "away")
    away.write_text("no folder: the site does not answer")
    for _ in range(3):
        assert {one.code for one in export(world).problems} >= {"site-lacks-seal", "one-cloud"}
    away.unlink()
    held.rename(away)
    assert export(world).problems == ()
    assert locked_seals(locks["site-c"]) == [f"{number:08d}.json" for number in range(4)]


@pytest.mark.parametrize("later", [False, True])
def test_where_no_lock_is_wanted_nothing_is_told(world: AuditWorld, locks: dict[str, Locks], later: bool) -> None:
    locks["site-b"].enforces = locks["site-c"].enforces = False
    if later:
        assert [site for site, *_ in told(export(world))] == ["site-b", "site-c"]
    add_audit(world.topology)
    done = export(world)
    assert done.problems == ()
    assert set(done.locked.values()) == {"not locked: no lock is wanted"}
