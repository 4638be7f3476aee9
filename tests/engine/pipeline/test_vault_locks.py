"""Locks of a whole vault as the topology describes it: its site, its mirror, its witnesses, the sites of its shares."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.clock import SystemClock
from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.pipeline.vaults import backing_up, keeping, opening, renewing, restoring
from holdfast.engine.pipeline.vaults.locking import locks_at, remover, vault_locks
from holdfast.engine.pipeline.vaults.renewing import SiteLocks
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.collect import CollectOptions, collect
from holdfast.engine.vault.locks import LockedObject
from holdfast.engine.vault.locks.report import Wrong
from holdfast.engine.vault.locks.s3 import S3Locks
from holdfast.engine.vault.mirror import MirrorReport
from holdfast.engine.vault.repair import RepairReport
from holdfast.engine.vault.sources import TreeSource
from lock_world import moto_server, s3_bucket
from vault_world import some_files, write_tree

SITES = ("site-a", "site-b", "site-c")
#: Nobody listens there.
NOWHERE = {"conn_type": "aws", "login": "a", "password": "b", "extra": {"endpoint_url": "http://127.0.0.1:9"}}


class Killed(BaseException):
    """The process ended here."""


@dataclass
class LockedSites:
    """A vault over three buckets that keep locks, and what is backed up into it."""

    folder: Path
    settings: dict[str, Any]
    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    buckets: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, url: str, **settings: Any) -> LockedSites:
        made = cls(folder, settings)
        for site in SITES:
            bucket = s3_bucket(url)
            made.buckets[site] = bucket.site.bucket
            made.connections[site] = {
                "conn_type": "aws",
                "login": "a",
                "password": "b",
                "extra": {**bucket.connection.extra, "region_name": "eu-west-1"},
            }
        for role in ("writer", "reader", "admin"):
            (folder / f"{role}.key").write_text(os.urandom(32).hex())
        write_tree(folder / "source", some_files(count=4))
        opening.made(made.runtime, "desk")
        return made

    @property
    def runtime(self) -> Runtime:
        document = {
            "version": 1,
            "sites": {
                site: {
                    "cloud": "aws",
                    "region": "eu-west-1",
                    "jurisdiction": "EU",
                    "connection": site.replace("-", "_"),
                    "bucket": bucket,
                    "compute": {"kind": "process", "queue": site},
                }
                for site, bucket in self.buckets.items()
            },
            "vaults": {
                "desk": {
                    "site": "site-a",
                    "witnesses": ["site-b", "site-c"],
                    "lock_days": {"daily": 2},
                    "keys": {role: [f"file:{self.folder}/{role}.key"] for role in ("writer", "reader", "admin")},
                    **self.settings,
                }
            },
            "datasets": {},
            "groups": {},
        }
        file = self.folder / "topology.yaml"
        file.write_text(yaml.safe_dump(document))
        environ = {
            f"AIRFLOW_CONN_{site.replace('-', '_').upper()}": json.dumps(connection)
            for site, connection in self.connections.items()
        }
        return Runtime(load_topology(file, os.environ), EnvironmentConnections(environ), clock=SystemClock())

    def back_up(self) -> backing_up.Made:
        source = TreeSource("tree", self.folder / "source", datetime.now(UTC))
        return backing_up.back_up_source(self.runtime, "desk", source)

    def locks(self, *, renew: bool = False) -> dict[str, SiteLocks]:
        return {one.site: one for one in renewing.looked_at_locks(self.runtime, "desk", renew=renew)}


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites that are away are told so at the first try."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def test_every_site_is_locked_looked_at_and_renewed(moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = LockedSites.make(tmp_path, moto, mirrors=["site-b"])
    with monkeypatch.context() as patch:
        patch.setattr(S3Locks, "extend", lambda *_args: None)
        made = world.back_up()
    assert made.mirrors.keys() == {"site-b"}
    before = {site: versions(world, site) for site in SITES}
    found = world.locks()
    assert {site: versions(world, site) for site in SITES} == before, "a look writes nothing, not even for a moment"
    assert found.keys() == {"site-a", "site-b"}
    for one in found.values():
        assert one.report is not None
        assert Wrong.NOT_LOCKED in {problem.what for problem in one.report.problems}
        assert not one.is_good
    assert found["site-a"].report is not None
    assert {problem.site for problem in found["site-a"].report.problems} == {None, "site-b", "site-c"}
    renewed = world.locks(renew=True)
    assert all(one.is_good for one in renewed.values()), [one.sentences() for one in renewed.values()]
    assert all(one.renewed is not None and one.renewed.extended["packs"] > 0 for one in renewed.values())
    assert renewed["site-a"].report is not None
    assert renewed["site-a"].report.counted["vault-witness"] == 4, "the newest entry and the keys', at two sites"


def versions(world: LockedSites, site: str) -> list[LockedObject]:
    """All that was ever put at a site and not removed for good."""
    return list(locks_at(world.runtime, site).objects(""))


@pytest.mark.slow
def test_the_task_renews_and_fails_with_what_stays_unlocked(
    moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    from holdfast.operators.vault import RenewLocksOperator

    world = LockedSites.make(tmp_path, moto, mirrors=["site-b"])
    world.runtime  # noqa: B018 - writes the topology
    task = RenewLocksOperator(task_id="lock", vault="desk", topology_path=str(tmp_path / "topology.yaml"))
    with monkeypatch.context() as patch:
        patch.setattr(S3Locks, "extend", lambda *_args: None)
        world.back_up()
        with pytest.raises(AirflowFailException, match="not locked"):
            task.act({}, world.runtime)  # type: ignore[typeddict-item]
    done = task.act({}, world.runtime)  # type: ignore[typeddict-item]
    assert {site: one["good"] for site, one in done["sites"].items()} == {"site-a": True, "site-b": True}
    world.connections["site-b"] = NOWHERE
    with pytest.raises(StoreUnavailable):  # tried again
        task.act({}, world.runtime)  # type: ignore[typeddict-item]


def test_a_mirror_killed_between_an_object_and_its_lock_is_made_up_for(
    moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = LockedSites.make(tmp_path, moto, mirrors=["site-b"])
    world.back_up()
    write_tree(tmp_path / "source", {"new": b"new" * 100_000})
    real = S3Locks.extend

    def dies(locks: S3Locks, key: str, *rest: Any) -> None:
        if locks.name.startswith("site-b") and key.startswith("packs/"):
            raise Killed
        real(locks, key, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(S3Locks, "extend", dies)
        with pytest.raises(Killed):
            world.back_up()
    of_mirror = vault_locks(world.runtime, "desk", "site-b")
    assert [found.key for found in of_mirror.objects("packs/") if found.until is None]
    assert isinstance(backing_up.mirror_everywhere(world.runtime, "desk")["site-b"], MirrorReport)
    assert world.locks(renew=True)["site-b"].is_good
    assert not [found.key for found in of_mirror.objects("packs/") if found.until is None]


def test_shares_are_locked_at_every_site_and_one_that_cannot_is_told_of(
    moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = LockedSites.make(tmp_path, moto, shares={"sites": list(SITES), "needed": 2})
    assert world.back_up().warnings == ()
    good = world.locks()
    assert good.keys() == set(SITES)
    assert all(one.is_good for one in good.values()), [one.sentences() for one in good.values()]
    write_tree(tmp_path / "source", {"new": b"new" * 100_000})
    real = S3Locks.extend

    def away(locks: S3Locks, key: str, *rest: Any) -> None:
        if locks.name.startswith("site-c"):
            raise StoreUnavailable("the lock service is away", where=key)
        real(locks, key, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(S3Locks, "extend", away)
        warnings = world.back_up().warnings
    assert any("site-c" in one and "not locked" in one and "locks --renew" in one for one in warnings), warnings
    found = world.locks()
    assert [site for site, one in found.items() if not one.is_good] == ["site-a", "site-c"], "site-c is a witness, too"
    assert all(one.is_good for one in world.locks(renew=True).values())


def test_a_locked_vault_restores_from_its_mirror_with_its_site_gone(
    moto: str, tmp_path: Path, no_patience: None
) -> None:
    world = LockedSites.make(tmp_path, moto, mirrors=["site-b"])
    world.back_up()
    world.connections["site-a"] = NOWHERE
    runtime = world.runtime
    done = restoring.restored(runtime, "desk", restoring.folder_target(tmp_path / "out"), vault_site="site-b")
    assert done.restored == len(some_files(count=4))
    found = world.locks(renew=True)
    assert found["site-b"].is_good, found["site-b"].sentences()
    assert found["site-a"].away
    assert not found["site-a"].is_good


def test_what_is_collected_at_a_locked_mirror_is_not_hidden(moto: str, tmp_path: Path) -> None:
    """A plain delete of a locked object succeeds on S3, and puts a marker over it."""
    world = LockedSites.make(tmp_path, moto, mirrors=["site-b"], grace_hours=0)
    made = world.back_up()
    keeping.forgotten(world.runtime, "desk", backups=[made.report.backup.backup_id], last_too=True)
    for _ in range(2):
        keeping.collected(world.runtime, "desk")
    packs = list(vault_locks(world.runtime, "desk", "site-b").objects("packs/"))
    assert packs
    assert not [found.key for found in packs if found.hidden]


def test_the_share_of_a_write_that_was_broken_off_goes_for_good(moto: str, tmp_path: Path) -> None:
    """A plain delete would only hide it, and the next repair make it visible again."""
    world = LockedSites.make(tmp_path, moto, shares={"sites": list(SITES), "needed": 2})
    world.back_up()
    key = "packs/daily/ab/" + "ab" * 16
    opening.store_below(world.runtime, "desk", "site-a").put(key, b"a share")
    assert list(unfinished(keeping.repaired(world.runtime, "desk"))) == [key]
    vault = opening.opened(world.runtime, "desk", "admin")
    remove = remover(world.runtime, "desk", vault.store)
    collect(vault, CollectOptions(orphan_age=timedelta(days=-1), remove=remove))
    assert not list(vault_locks(world.runtime, "desk", "site-a").objects(key))
    again = keeping.repaired(world.runtime, "desk")
    assert (again.healed, unfinished(again), again.exit_code) == ({}, {}, 0)


def unfinished(report: RepairReport) -> dict[str, datetime]:
    assert report.shares is not None
    return report.shares.unfinished
