"""What each of Holdfast's roles does, run for real on a bucket, for the published policies to be tried on."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from audit_world import AuditWorld, FakeSource, add_audit, event
from holdfast.clock import SystemClock
from holdfast.engine.audit.errors import NotComplete
from holdfast.engine.audit.privacy.shred import shred_subject, subject_keys
from holdfast.engine.config import Connection, load_topology
from holdfast.engine.config.sync import Deletes, Sync
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.errors import PermissionRefused
from holdfast.engine.objectstore.interface import CREATE, ObjectStore
from holdfast.engine.objectstore.parts import part_store, sweep_uploads
from holdfast.engine.replication.deletes import Keep, SourceState, mark, remove
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.backups import find_backup
from holdfast.engine.vault.collect import CollectOptions, collect
from holdfast.engine.vault.forget import Keep as KeepBackups
from holdfast.engine.vault.forget import forget
from holdfast.engine.vault.keysets import make_vault, unlock
from holdfast.engine.vault.locks import LockMode, LockPolicy, Protector
from holdfast.engine.vault.recipients import AgeRecipient
from holdfast.engine.vault.restore import restore_backup
from holdfast.engine.vault.sources import TreeSource
from holdfast.engine.vault.targets import FolderTarget, PrefixTarget
from holdfast.engine.vault.vault import open_vault
from holdfast.errors import Refused
from lock_world import LockingBucket
from sync_world import DATASET, World
from vault_world import SMALL, some_files, write_tree

DAY = timedelta(days=1)
_AT_ONCE = CollectOptions(grace=timedelta(0), orphan_age=timedelta(0))


@dataclass
class RoleWorld:
    """A bucket as an administrator sees it, and the same through the gate.

    Args:
        direct: past the gate, for what was there before and for looking afterwards.
        gated: the bucket's connection leads through the gate.
        folder: an empty one.
        locks: objects can be locked here; Azurite has no locks, and the roles then do the rest of their work.
    """

    direct: LockingBucket
    gated: LockingBucket
    folder: Path
    locks: bool = True
    recipient: AgeRecipient = field(default_factory=AgeRecipient.make)

    @property
    def keeps_tags(self) -> bool:
        return self.direct.kind == "s3"

    def hooks(self, bucket: LockingBucket) -> dict[str, Any]:
        """What locks all that a vault writes."""
        return {"protect": Protector(bucket.locks, LockPolicy({"daily": DAY}))} if self.locks else {}


def collector(world: RoleWorld) -> Callable[[], None]:
    """Lists delivered logs and reads one."""
    world.direct.store.put("AWSLogs/1.json.gz", b"log")

    def act() -> None:
        assert [info.key for info in world.gated.store.list("AWSLogs/")] == ["AWSLogs/1.json.gz"]
        assert world.gated.store.get("AWSLogs/1.json.gz") == b"log"
        world.gated.store.head("AWSLogs/1.json.gz")

    return act


def replicator(world: RoleWorld) -> Callable[[], None]:
    """Brings a dataset from one prefix of the bucket to another: objects with tags, a large one, then a deletion."""
    at = world.gated.site.prefix
    source, target = world.gated.at(f"{at}/from"), world.gated.at(f"{at}/to")
    past = world.direct.at(f"{at}/from")
    tags = Attributes(tags={"owner": "risk"}) if world.keeps_tags else None
    past.store.put("data/market/small", b"small")
    past.store.put("data/market/gone", b"gone", attributes=tags)
    past.store.put("data/market/large", bytes(17 * 1024 * 1024))

    def act() -> None:
        clock = SystemClock()
        sync = World({"aws": source.store, "azure": target.store}, clock=clock)
        deletes = Deletes(enabled=True, delay_seconds=0, most_share=1.0)
        policy = Sync(deletes=deletes, preserve=("tags",) if world.keeps_tags else ())
        for _ in range(2):
            (found,) = sync.sync(policy=policy).targets
            if found.error is not None or found.refused is not None:
                raise PermissionRefused(f"the sync did not end: {found.error or found.refused}")
            past.store.delete("data/market/gone")
        healthy = SourceState("aws", healthy=True, listing_complete=True)
        of_target: dict[str, Any] = {"site": "azure", "epoch": 1, "policy": deletes, "source": healthy, "clock": clock}
        mark(target.store, DATASET, **of_target)
        remove(target.store, DATASET, keep=Keep(newest=1), **of_target)
        parts = part_store(target.store)
        assert parts is not None
        upload = parts.begin("data/market/broken", size_bytes=6 * 1024 * 1024)
        assert parts.parts(upload) == []
        sweep_uploads(target.store, "", older_than_seconds=-60, clock=SystemClock())

    return act


def exporter(world: RoleWorld) -> Callable[[], None]:
    """Writes what must be new, locks it, reads it back."""

    def act() -> None:
        assert world.gated.locks.capability().enforces is world.locks
        folder = f"export/{uuid.uuid4().hex}/"
        for key in (f"{folder}segment", f"{folder}manifest"):
            world.gated.store.put(key, b"sealed", mode=CREATE)
            if world.locks:
                world.gated.locks.extend(key, datetime.now(UTC) + DAY, LockMode.COMPLIANCE)
            assert world.gated.store.get(key) == b"sealed"
        assert len(list(world.gated.store.list(folder))) == 2

    return act


#: Who is shredded: the source of the ledger names them.
_SUBJECT = "user-1"


class _Ledger(AuditWorld):
    """A ledger whose first site is the bucket, past the gate or through it, and whose subjects are protected."""

    bucket: LockingBucket

    def over(self, bucket: LockingBucket) -> _Ledger:
        self.bucket = bucket
        document = yaml.safe_load(self.topology.read_text())
        settings = {"cloud", "region", "jurisdiction", "connection", "bucket", "prefix"}
        document["sites"]["site-b"] = bucket.site.model_dump(mode="json", include=settings)
        self.topology.write_text(yaml.safe_dump(document))
        return self

    def runtime(self) -> Runtime:
        return Runtime(load_topology(self.topology, self.environ), self, clock=self.clock, environ=self.environ)

    def get(self, conn_id: str) -> Connection:
        if conn_id == self.bucket.site.connection:
            return self.bucket.connection
        return Connection(conn_id=conn_id, conn_type="generic")  # the other sites are folders


def shredder(world: RoleWorld) -> Callable[[], None]:
    """Removes a subject's key in all its versions, and leaves a certificate; the other site is a folder."""
    ledger = _Ledger(world.folder, FakeSource([[[event(number) for number in range(7)]]])).over(world.direct)
    master = {"subjects": "pseudonymous", "master_key": "env:MASTER"}
    ledger.environ["MASTER"] = "5a" * 32
    add_audit(ledger.topology, privacy=master)
    ledger.export()
    keys = world.direct.at(f"{world.direct.site.prefix}/ledger-subjects").store
    at = subject_keys(ledger.runtime()).object_name(_SUBJECT)
    keys.put(at, keys.get(at))  # a version beneath

    def act() -> None:
        runtime = ledger.over(world.gated).runtime()
        try:
            shred_subject(runtime, _SUBJECT, reason="request 17")
        except (Refused, NotComplete) as error:
            raise PermissionRefused(f"the shredding did not end: {error}") from error
        assert not list(keys.list(at))

    return act


def _vault(world: RoleWorld, bucket: LockingBucket, role: str) -> Any:
    store = bucket.store
    secrets = unlock(store, role, [world.recipient])
    return open_vault("vault", store, secrets, witnesses={}, clock=SystemClock(), **world.hooks(bucket))


def _made(world: RoleWorld, *, protected: bool) -> None:
    everybody = {role: [world.recipient] for role in ("writer", "reader", "admin")}
    hooks = world.hooks(world.direct) if protected else {}
    make_vault("vault", world.direct.store, everybody, witnesses={}, clock=SystemClock(), **hooks)
    write_tree(world.folder / "source", some_files(count=3))


def vault_writer(world: RoleWorld) -> Callable[[], None]:
    """Backs a tree up into a locked vault."""
    _made(world, protected=True)

    def act() -> None:
        for number in range(2):  # the second one moves the head
            write_tree(world.folder / "source", {"changed": uuid.uuid4().bytes * (number + 1)})
            source = TreeSource("tree", world.folder / "source", datetime.now(UTC))
            assert not back_up(_vault(world, world.gated, "writer"), source, SMALL).vault.unprotected

    return act


def _backed_up(world: RoleWorld, *, protected: bool) -> None:
    _made(world, protected=protected)
    secrets = unlock(world.direct.store, "writer", [world.recipient])
    vault = open_vault("vault", world.direct.store, secrets, witnesses={}, clock=SystemClock())
    back_up(vault, TreeSource("tree", world.folder / "source", datetime.now(UTC)), SMALL)


def _unprotected(world: RoleWorld, store: ObjectStore, role: str) -> Any:
    return open_vault("vault", store, unlock(store, role, [world.recipient]), witnesses={}, clock=SystemClock())


def vault_reader(world: RoleWorld) -> Callable[[], None]:
    """Restores a backup into a folder."""
    _backed_up(world, protected=False)

    def act() -> None:
        vault = _unprotected(world, world.gated.store, "reader")
        restore_backup(vault, find_backup(vault), FolderTarget(world.folder / uuid.uuid4().hex))

    return act


def vault_admin(world: RoleWorld) -> Callable[[], None]:
    """Forgets a backup and collects what it alone needed, version by version."""
    _backed_up(world, protected=False)
    _backed_up_again(world)
    world.direct.store.put("leftover", b"x")

    def act() -> None:
        remove = world.gated.locks.remove
        vault = _vault(world, world.gated, "admin")
        vault, _ = forget(vault, KeepBackups(last=1, hourly=0, daily=0, weekly=0, monthly=0, yearly=0))
        for _ in range(2):  # the first says what is nobody's, the second removes it
            vault, _ = collect(vault, replace(_AT_ONCE, remove=remove))
        # A collection counts what it may not remove among what is locked; one object by itself says why.
        remove("leftover")
        assert [info.key for info in world.direct.store.list("leftover")] == []

    return act


def _backed_up_again(world: RoleWorld) -> None:
    write_tree(world.folder / "source", some_files(2, count=3))
    secrets = unlock(world.direct.store, "writer", [world.recipient])
    vault = open_vault("vault", world.direct.store, secrets, witnesses={}, clock=SystemClock())
    back_up(vault, TreeSource("tree", world.folder / "source", datetime.now(UTC)), SMALL)


def drill(world: RoleWorld) -> Callable[[], None]:
    """Restores into a scratch prefix, writes its report, removes the scratch."""
    _backed_up(world, protected=False)

    def act() -> None:
        store = world.gated.store
        vault = _unprotected(world, store, "reader")
        restore_backup(vault, find_backup(vault), PrefixTarget(store, "scratch/"))
        store.put(f"evidence/{uuid.uuid4().hex}/report.json", b"{}", mode=CREATE)
        for info in list(store.list("scratch/")):
            store.delete(info.key)

    return act


ROLES: dict[str, Callable[[RoleWorld], Callable[[], None]]] = {
    "collector": collector,
    "replicator": replicator,
    "exporter": exporter,
    "vault-writer": vault_writer,
    "vault-reader": vault_reader,
    "vault-admin": vault_admin,
    "drill": drill,
    "shredder": shredder,
}
