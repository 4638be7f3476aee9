"""A whole vault in buckets that keep locks: all it writes is locked, what counts stays so, the rest can go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.errors import NotSupported, PermissionRefused, StoreUnavailable
from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.backups import find_backup, live_backups
from holdfast.engine.vault.collect import CollectOptions, collect, store_now
from holdfast.engine.vault.erasure import ErasureStore
from holdfast.engine.vault.erasure_locks import protect_everywhere, remove_everywhere
from holdfast.engine.vault.errors import NoVault
from holdfast.engine.vault.forget import Keep, forget, hold
from holdfast.engine.vault.keysets import make_vault, rotate_keys, unlock
from holdfast.engine.vault.locks import LockPolicy, LockReport, NoLocks, Protector, lock_report, renew_locks
from holdfast.engine.vault.locks.report import Wrong, reveal_hidden
from holdfast.engine.vault.mirror import mirror_vault
from holdfast.engine.vault.recipients import AgeRecipient
from holdfast.engine.vault.restore import restore_backup
from holdfast.engine.vault.sources import TreeSource
from holdfast.engine.vault.targets import FolderTarget
from holdfast.engine.vault.vault import Vault, open_vault
from holdfast.engine.vault.verify import Depth, VerifyOptions, verify_vault
from holdfast.errors import ConfigError
from lock_world import LockingBucket, gcs_bucket, gcs_server, moto_server, s3_bucket
from vault_world import SMALL, read_tree, some_files, write_tree

DAY = timedelta(days=1)
POLICY = LockPolicy({"daily": 2 * DAY, "monthly": 60 * DAY})
AT_ONCE = CollectOptions(grace=timedelta(0), orphan_age=timedelta(0))
CLASSES = ("packs", "indexes", "log", "log-copies", "keys", "vault-witness")


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with gcs_server(tmp_path_factory.mktemp("gcs")) as url:
        yield url


@pytest.fixture(params=["s3", "gcs"])
def bucket(request: pytest.FixtureRequest) -> LockingBucket:
    if request.param == "s3":
        return s3_bucket(request.getfixturevalue("moto"))
    return gcs_bucket(request.getfixturevalue("gcs"))


@dataclass
class LockedVault:
    """A vault and its witness in one bucket, under prefixes of their own."""

    bucket: LockingBucket
    recipient: AgeRecipient
    protects: bool = True
    policy: LockPolicy = POLICY

    @property
    def witness(self) -> LockingBucket:
        return self.bucket.at(f"{self.bucket.site.prefix}-witness")

    def _hooks(self) -> dict[str, object]:
        if not self.protects:
            return {}
        ours, theirs = (Protector(one.locks, self.policy) for one in (self.bucket, self.witness))
        return {"protect": ours, "protect_witness": lambda _site, key: theirs(key)}

    def make(self) -> LockedVault:
        everybody = {role: [self.recipient] for role in ("writer", "reader", "admin")}
        make_vault("vault", self.bucket.store, everybody, witnesses={"site-b": self.witness.store}, **self._hooks())  # type: ignore[arg-type]
        return self

    def open(self, role: str) -> Vault:
        store = self.bucket.store
        secrets = unlock(store, role, [self.recipient])
        return open_vault("vault", store, secrets, witnesses={"site-b": self.witness.store}, **self._hooks())  # type: ignore[arg-type]

    def back_up(self, folder: Path, **options: object) -> None:
        source = TreeSource("tree", folder, datetime.now(UTC))
        assert not back_up(self.open("writer"), source, replace(SMALL, **options)).vault.unprotected  # type: ignore[arg-type]

    def restored(self, folder: Path) -> dict[str, bytes]:
        vault = self.open("reader")
        restore_backup(vault, find_backup(vault), FolderTarget(folder))
        return read_tree(folder)

    def report(self, *, now: datetime | None = None, role: str = "writer") -> LockReport:
        vault, of_witness = self.open(role), {"site-b": self.witness.locks}
        return lock_report(vault, self.bucket.locks, self.policy, witness_locks=of_witness, now=now)

    def renew(self, now: datetime | None = None):  # type: ignore[no-untyped-def]
        now = now or store_now(self.bucket.store)
        of_witness = {"site-b": self.witness.locks}
        return renew_locks(self.open("admin"), self.bucket.locks, self.policy, witness_locks=of_witness, now=now)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    write_tree(folder, some_files(count=8))
    return folder


def test_everything_a_vault_writes_is_locked_in_every_class(
    bucket: LockingBucket, source: Path, tmp_path: Path
) -> None:
    world = LockedVault(bucket, AgeRecipient.make()).make()
    world.back_up(source, tier="monthly")
    write_tree(source, {"new": b"new" * 100_000})
    world.back_up(source)
    admin = hold(world.open("admin"), live_backups(world.open("admin"))[:1], held=True)
    admin, _ = rotate_keys(admin, {"admin": [world.recipient]})
    admin = hold(admin, live_backups(admin)[:1], held=False)
    admin, _ = forget(admin, Keep(last=1))
    admin, _ = collect(admin, AT_ONCE)
    assert not admin.unprotected
    report = world.report()
    assert report.is_good, report.sentences()
    assert all(report.counted[name] > 0 for name in CLASSES), report.counted
    locked = {found.key: found.until for found in bucket.locks.objects("") if not found.hidden}
    unlocked = {key for key, until in locked.items() if until is None}
    assert not {key for key in unlocked if not key.startswith(("head.json", "clock/"))}
    pack = next(key for key in locked if key.startswith("packs/daily/"))
    written = bucket.locks.state(pack).written_at
    assert locked[pack] == written + 2 * DAY
    assert all(found.until for found in world.witness.locks.objects(""))
    assert world.restored(tmp_path / "out") == read_tree(source)


def test_what_is_not_locked_is_reported_in_every_class_and_renewed(bucket: LockingBucket, source: Path) -> None:
    world = LockedVault(bucket, AgeRecipient.make(), protects=False).make()
    world.back_up(source)
    report = world.report()
    assert not report.is_good
    assert {problem.what for problem in report.problems} == {Wrong.NOT_LOCKED}
    assert {problem.key.partition("/")[0] for problem in report.problems} == set(CLASSES)
    assert len(report.problems) == report.counted.total()
    renewed = world.renew()
    assert renewed.is_good
    assert renewed.extended.total() == len(report.problems)
    assert world.report().is_good, world.report().sentences()
    again = world.renew()
    assert (again.extended.total(), again.enough) == (0, report.counted.total())


def test_a_renewal_lengthens_what_runs_out_and_lets_go_of_what_nobody_needs(
    bucket: LockingBucket, source: Path
) -> None:
    world = LockedVault(bucket, AgeRecipient.make()).make()
    world.back_up(source)
    old = {found.key for found in bucket.locks.objects("packs/")}
    write_tree(source, {path: b"other" + data for path, data in some_files(seed=5, count=8).items()})
    world.back_up(source)
    forget(world.open("admin"), Keep(last=1))
    later = store_now(bucket.store) + 1.5 * DAY
    short = world.report(now=later)
    assert {problem.what for problem in short.problems} == {Wrong.TOO_SHORT}
    assert {problem.key.partition("/")[0] for problem in short.problems} == {"packs"}, "roots last as long as monthly"
    assert not {problem.key for problem in short.problems} & old
    assert world.renew(later).is_good
    assert world.report(now=later).is_good
    until = {found.key: found.until for found in bucket.locks.objects("packs/")}
    assert all(moment is not None and moment < later + DAY for key, moment in until.items() if key in old)
    assert all(moment is not None and moment >= later + 2 * DAY for key, moment in until.items() if key not in old)


def test_a_collection_keeps_what_is_locked_and_hides_nothing(
    bucket: LockingBucket, source: Path, tmp_path: Path
) -> None:
    world = LockedVault(bucket, AgeRecipient.make()).make()
    world.back_up(source)
    write_tree(source, {path: b"other" + data for path, data in some_files(seed=5, count=8).items()})
    world.back_up(source)
    before = {found.key for found in bucket.locks.objects("packs/")}
    admin, _ = forget(world.open("admin"), Keep(last=1))
    options = replace(AT_ONCE, remove=bucket.locks.remove)
    for _ in range(3):
        admin, report = collect(admin, options)
    assert report.deleted_packs == 0
    kept = {key for key in report.kept_locked if key.startswith("packs/")}
    assert kept
    assert report.deleted_bytes == 0
    found = list(bucket.locks.objects("packs/"))
    assert {one.key for one in found} >= before
    assert not any(one.hidden for one in found)
    assert world.report(role="admin").is_good, world.report().sentences()
    assert world.restored(tmp_path / "out") == read_tree(source)
    assert verify_vault(world.open("reader"), VerifyOptions(depth=Depth.FULL)).is_good


def test_what_was_never_locked_is_collected_for_good(moto: str, source: Path) -> None:
    """Where a plain delete would leave the bytes as older versions, and their costs."""
    bucket = s3_bucket(moto)
    world = LockedVault(bucket, AgeRecipient.make(), protects=False).make()
    world.back_up(source)
    write_tree(source, {path: b"other" + data for path, data in some_files(seed=5, count=8).items()})
    world.back_up(source)
    admin, _ = forget(world.open("admin"), Keep(last=1))
    for _ in range(2):
        admin, report = collect(admin, replace(AT_ONCE, remove=bucket.locks.remove))
    listed = bucket.client.list_object_versions(Bucket=bucket.site.bucket, Prefix=f"{bucket.site.prefix}/packs/")
    assert not listed.get("DeleteMarkers")
    needed = {problem.key for problem in world.report().problems if problem.key.startswith("packs/")}
    assert {one["Key"].removeprefix(f"{bucket.site.prefix}/") for one in listed["Versions"]} == needed
    assert report.kept_locked == []


def test_a_vault_deleted_and_overwritten_behind_its_back_comes_back(moto: str, source: Path, tmp_path: Path) -> None:
    """Whoever may write and delete, but lift no lock, can hide everything and destroy nothing."""
    bucket = s3_bucket(moto)
    world = LockedVault(bucket, AgeRecipient.make()).make()
    world.back_up(source)
    opened = world.open("reader")
    for number, info in enumerate(list(bucket.store.list())):
        if number % 2:
            bucket.store.put(info.key, b"pay us")
        bucket.store.delete(info.key)
    with pytest.raises(NoVault):
        world.open("reader")
    [*_, last] = live_backups(opened)
    assert last.objects == len(some_files(count=8))
    revealed = reveal_hidden(bucket.locks).keys
    assert {key.partition("/")[0] for key in revealed} == set(CLASSES) - {"vault-witness"}
    assert world.restored(tmp_path / "out") == some_files(count=8)
    report = world.report()
    assert not [one for one in report.problems if one.site is None], "a version put back has the lock it had"


def test_what_is_hidden_or_gone_is_reported(moto: str, source: Path) -> None:
    bucket = s3_bucket(moto)
    world = LockedVault(bucket, AgeRecipient.make()).make()
    world.back_up(source)
    pack = next(info.key for info in bucket.store.list("packs/"))
    entry = "log-copies/000000000002.json"
    bucket.store.delete(pack)
    bucket.store.put(entry, b"another")
    problems = world.report().problems
    assert {(problem.key, problem.what) for problem in problems} == {(pack, Wrong.HIDDEN), (entry, Wrong.HIDDEN)}
    renewed = world.renew()
    assert len(renewed.failed) == 2


def test_a_mirror_is_locked_like_the_vault(bucket: LockingBucket, source: Path) -> None:
    world = LockedVault(bucket, AgeRecipient.make()).make()
    world.back_up(source)
    mirror = bucket.at(f"{bucket.site.prefix}-mirror")
    mirror_vault(bucket.store, mirror.store, protect=Protector(mirror.locks, POLICY))
    secrets = unlock(mirror.store, "writer", [world.recipient])
    vault = open_vault("mirror", mirror.store, secrets)
    report = lock_report(vault, mirror.locks, POLICY)
    assert report.is_good, report.sentences()
    assert report.counted["packs"] > 0


def test_shares_and_copies_are_locked_at_every_site(moto: str, source: Path, tmp_path: Path) -> None:
    """And a site that cannot lock does not end a backup, and shows."""
    buckets = {name: s3_bucket(moto) for name in ("site-a", "site-b", "site-c")}
    store = ErasureStore([(name, bucket.store) for name, bucket in buckets.items()])
    protectors = {name: Protector(bucket.locks, POLICY) for name, bucket in buckets.items()}
    recipient = AgeRecipient.make()

    def fails(_key: str) -> None:
        raise StoreUnavailable("the lock service is away")

    protect = protect_everywhere(store, {**protectors, "site-c": fails})
    make_vault("vault", store, {role: [recipient] for role in ("writer", "reader", "admin")}, protect=protect)
    vault = open_vault("vault", store, unlock(store, "admin", [recipient]), protect=protect)
    vault = back_up(vault, TreeSource("tree", source, datetime.now(UTC)), SMALL).vault
    assert {(one.site, one.what) for one in store.incomplete} == {("site-c", "not locked there")}
    good = {name: lock_report(vault, bucket.locks, POLICY).is_good for name, bucket in buckets.items()}
    assert good == {"site-a": True, "site-b": True, "site-c": False}
    bucket = buckets["site-c"]
    assert renew_locks(vault, bucket.locks, POLICY, now=store_now(bucket.store)).is_good
    assert lock_report(vault, bucket.locks, POLICY).is_good
    remove = remove_everywhere(store, {name: bucket.locks.remove for name, bucket in buckets.items()})
    pack = next(info.key for info in store.list("packs/"))
    with pytest.raises(PermissionRefused):
        remove(pack)
    assert len(list(store.list("packs/"))) == len(list(buckets["site-a"].locks.objects("packs/")))
    with pytest.raises(ConfigError):
        protect_everywhere(store, {"site-a": fails})


def test_a_vault_without_locks_is_never_reported_as_locked(source: Path) -> None:
    store, recipient = memory_store("vault"), AgeRecipient.make()
    protect = Protector(NoLocks(store), POLICY)
    make_vault("vault", store, {role: [recipient] for role in ("writer", "reader", "admin")}, protect=protect)
    vault = open_vault("vault", store, unlock(store, "writer", [recipient]), protect=protect)
    vault = back_up(vault, TreeSource("tree", source, datetime.now(UTC)), SMALL).vault
    report = lock_report(vault, NoLocks(store), POLICY)
    assert not report.is_good
    assert not report.capability.enforces
    assert "keeps no locks" in report.sentences()[0]
    assert len(report.problems) == report.counted.total() > 0
    with pytest.raises(NotSupported):
        renew_locks(vault, NoLocks(store), POLICY, now=datetime.now(UTC))


def test_a_witness_whose_locks_nobody_looked_at_is_not_good(moto: str, source: Path) -> None:
    world = LockedVault(s3_bucket(moto), AgeRecipient.make()).make()
    report = lock_report(world.open("writer"), world.bucket.locks, POLICY)
    assert not report.problems
    assert not report.is_good
    assert "site-b" in report.unknown[0]


def test_a_tier_the_policy_forgets_is_reported(moto: str, source: Path) -> None:
    world = LockedVault(s3_bucket(moto), AgeRecipient.make()).make()
    world.back_up(source, tier="weekly")
    report = world.report()
    assert report.unlocked_tiers == ["weekly"]
    assert not report.is_good


def test_a_pack_that_cannot_be_locked_makes_no_backup_and_an_entry_that_cannot_stands(source: Path) -> None:
    store, recipient = memory_store("vault"), AgeRecipient.make()
    make_vault("vault", store, {role: [recipient] for role in ("writer", "reader", "admin")})
    refused = "packs/"

    def protect(key: str) -> None:
        if key.startswith(refused):
            raise StoreUnavailable("the lock service is away", where=key)

    vault = open_vault("vault", store, unlock(store, "writer", [recipient]), protect=protect)
    with pytest.raises(StoreUnavailable):
        back_up(vault, TreeSource("tree", source, datetime.now(UTC)), SMALL)
    assert live_backups(vault.reload()) == []
    refused = "log/"
    report = back_up(vault, TreeSource("tree", source, datetime.now(UTC)), SMALL)
    assert len(report.vault.unprotected) == 1
    assert [one.backup_id for one in live_backups(vault.reload())] == [report.backup.backup_id]
