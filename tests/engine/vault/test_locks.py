"""Each cloud's locks: S3 on moto, Google on the project's own server, Azure through its SDK on a strict service."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import blob_service
from holdfast.engine.config import Cloud, Site
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.errors import NotSupported, ObjectNotFound, PermissionRefused, StoreUnavailable
from holdfast.engine.vault.locks import LockMode, LockPolicy, NoLocks, ObjectLocks, Protector, open_locks
from holdfast.engine.vault.locks.report import reveal_hidden
from holdfast.errors import ConfigError
from lock_world import (
    LockingBucket,
    azure_container,
    delete_past,
    gcs_bucket,
    gcs_server,
    moto_server,
    put_past,
    s3_bucket,
    whole_second,
)

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with gcs_server(tmp_path_factory.mktemp("gcs")) as url:
        yield url


@pytest.fixture(params=["s3", "gcs", "azure"])
def bucket(request: pytest.FixtureRequest) -> Iterator[LockingBucket]:
    if request.param == "s3":
        yield s3_bucket(request.getfixturevalue("moto"))
    elif request.param == "gcs":
        yield gcs_bucket(request.getfixturevalue("gcs"))
    else:
        with blob_service.serving(blob_service.BlobService()) as url:
            yield azure_container(url)


@pytest.fixture
def now() -> datetime:
    return whole_second(datetime.now(UTC))


def test_the_bucket_says_that_it_keeps_locks(bucket: LockingBucket) -> None:
    capability = bucket.locks.capability()
    assert (capability.backend, capability.enforces) == (bucket.kind, True)
    assert isinstance(bucket.locks, ObjectLocks)


def test_what_is_locked_is_not_removed_and_what_is_not_is(bucket: LockingBucket, now: datetime) -> None:
    locks = bucket.locks
    for key in ("log/1", "log/10"):
        put_past(bucket, key, b"entry")
    assert locks.state("log/1").until is None
    locks.extend("log/1", now + DAY, LockMode.COMPLIANCE)
    found = locks.state("log/1")
    assert (found.until, found.mode, found.hidden) == (now + DAY, LockMode.COMPLIANCE, False)
    assert locks.state("log/10").until is None
    with pytest.raises(PermissionRefused):
        locks.remove("log/1")
    assert locks.state("log/1").until == now + DAY
    locks.remove("log/10")
    assert [found.key for found in locks.objects("log/")] == ["log/1"]


def test_a_lock_is_only_ever_lengthened(bucket: LockingBucket, now: datetime) -> None:
    locks = bucket.locks
    put_past(bucket, "k", b"x")
    locks.extend("k", now + 2 * DAY, LockMode.GOVERNANCE)
    locks.extend("k", now + DAY, LockMode.GOVERNANCE)
    assert locks.state("k").until == now + 2 * DAY
    locks.extend("k", now + DAY, LockMode.COMPLIANCE)
    assert (locks.state("k").until, locks.state("k").mode) == (now + 2 * DAY, LockMode.COMPLIANCE)
    locks.extend("k", now + 3 * DAY, LockMode.GOVERNANCE)
    assert (locks.state("k").until, locks.state("k").mode) == (now + 3 * DAY, LockMode.COMPLIANCE)


def test_deleting_what_is_locked_is_refused_or_hides_it(bucket: LockingBucket, now: datetime) -> None:
    locks = bucket.locks
    put_past(bucket, "k", b"x")
    locks.extend("k", now + DAY, LockMode.COMPLIANCE)
    if not bucket.hides:
        with pytest.raises(PermissionRefused):
            delete_past(bucket, "k")
        with pytest.raises(PermissionRefused):
            put_past(bucket, "k", b"over it")
        return
    put_past(bucket, "k", b"over it")
    delete_past(bucket, "k")
    with pytest.raises(ObjectNotFound):
        locks.state("k")
    first, second = sorted(locks.objects("k"), key=lambda found: (found.until is None, found.version))
    assert (first.hidden, first.until, second.hidden, second.until) == (True, now + DAY, True, None)
    with pytest.raises(PermissionRefused):
        locks.remove("k")
    assert len(list(locks.objects("k"))) == 2, "nothing goes while one version is locked"


def test_what_is_hidden_in_azure_is_told_once() -> None:
    with blob_service.serving(blob_service.BlobService()) as url:
        bucket = azure_container(url)
        for key in ("packs/a", "packs/b", "log/1", "log/2"):
            put_past(bucket, key, b"data")
        for key in ("packs/a", "packs/b", "log/1"):
            delete_past(bucket, key)
        (told,) = reveal_hidden(bucket.locks).failed
    assert "3 objects stay hidden, the first: " in told
    assert "packs/a" in told
    assert "az storage blob copy" in told


def test_what_is_hidden_is_made_visible_again(moto: str, now: datetime) -> None:
    bucket = s3_bucket(moto)
    bucket.store.put("k", b"first")
    bucket.locks.extend("k", now + DAY, LockMode.COMPLIANCE)
    bucket.store.put("k", b"over it")
    bucket.store.delete("k")
    oldest = min(bucket.locks.objects("k"), key=lambda found: (found.written_at, found.until is None))
    bucket.locks.reveal(oldest)
    assert bucket.store.get("k") == b"first"


def test_removing_for_good_leaves_no_version(moto: str) -> None:
    bucket = s3_bucket(moto)
    for data in (b"one", b"two"):
        bucket.store.put("k", data)
    bucket.store.delete("k")
    bucket.locks.remove("k")
    found = bucket.client.list_object_versions(Bucket=bucket.site.bucket)
    assert not found.get("Versions")
    assert not found.get("DeleteMarkers")


def test_a_bucket_that_never_had_versions_is_listed_and_emptied(moto: str) -> None:
    bucket = s3_bucket(moto, lock=False)
    bucket.store.put("k", b"one")
    assert [found.key for found in bucket.locks.objects("")] == ["k"]
    bucket.locks.remove("k")
    assert list(bucket.locks.objects("")) == []


def test_what_is_not_there_is_said_so(bucket: LockingBucket, now: datetime) -> None:
    with pytest.raises(ObjectNotFound):
        bucket.locks.state("nothing")
    with pytest.raises(ObjectNotFound):
        bucket.locks.extend("nothing", now + DAY, LockMode.COMPLIANCE)
    bucket.locks.remove("nothing")
    assert list(bucket.locks.objects("")) == []


def test_a_bucket_without_locks_says_so_and_nothing_passes_for_locked(moto: str, gcs: str, now: datetime) -> None:
    with blob_service.serving(blob_service.BlobService(immutable=False)) as url:
        for bucket in (s3_bucket(moto, lock=False), gcs_bucket(gcs, lock=False), azure_container(url)):
            assert not bucket.locks.capability().enforces
            put_past(bucket, "k", b"x")
            with pytest.raises((NotSupported, PermissionRefused)):
                bucket.locks.extend("k", now + DAY, LockMode.COMPLIANCE)
            with pytest.raises(NotSupported):
                Protector(bucket.locks, LockPolicy({"daily": DAY}))


def test_azurite_keeps_no_locks_and_says_so(sandbox_env: dict[str, str], now: datetime) -> None:
    from holdfast.engine.config import EnvironmentConnections, load_topology
    from holdfast.engine.objectstore import open_store

    topology = Path(__file__).resolve().parents[3] / "include" / "holdfast.yaml"
    site = load_topology(topology, sandbox_env).site("azure-westeurope").model_copy(update={"prefix": "locks"})
    connection = EnvironmentConnections(sandbox_env).get(site.connection)
    store = open_store("azure", site, connection)
    locks = open_locks("azure", site, connection, store)
    assert not locks.capability().enforces
    store.put("k", b"x")
    assert locks.state("k").until is None
    with pytest.raises(NotSupported):
        locks.extend("k", now + DAY, LockMode.COMPLIANCE)
    assert [found.key for found in locks.objects("")] == ["k"]
    locks.remove("k")
    assert list(store.list()) == []


def test_a_bucket_that_does_not_answer_is_unavailable(free_port: object, now: datetime) -> None:
    assert callable(free_port)
    bucket = LockingBucket("s3", site(), connection_to(f"http://127.0.0.1:{free_port()}"), hides=True)
    with pytest.raises(StoreUnavailable):
        bucket.locks.state("k")


def site() -> Site:
    return Site(
        cloud=Cloud.AWS, region="eu-west-1", jurisdiction="EU", connection="c", bucket="some-bucket", prefix="p"
    )


def connection_to(url: str):  # type: ignore[no-untyped-def]
    from holdfast.engine.config import Connection

    return Connection(conn_id="c", conn_type="aws", login="a", password="b", extra={"endpoint_url": url})


def test_a_bucket_with_a_default_retention_takes_puts_with_a_checksum(moto: str) -> None:
    bucket = s3_bucket(moto, default_days=1)
    for key, data in (("small", b"x"), ("large", bytes(9 * 1024 * 1024))):
        bucket.store.put(key, data)
        assert bucket.store.get(key) == data
        assert bucket.locks.state(key).until is not None


def test_no_locks_are_never_taken_for_locks(now: datetime) -> None:
    store = memory_store("vault")
    store.put("log/1", b"x")
    locks = NoLocks(store)
    assert not locks.capability().enforces
    with pytest.raises(NotSupported):
        locks.extend("log/1", now + DAY, LockMode.COMPLIANCE)
    protector = Protector(locks, LockPolicy({"daily": DAY}))
    protector("log/1")
    assert protector.protected == 0
    assert [(found.key, found.until) for found in locks.objects("")] == [("log/1", None)]


def test_a_protector_counts_from_when_the_store_says_it_was_written(moto: str) -> None:
    bucket = s3_bucket(moto)
    policy = LockPolicy({"daily": DAY, "yearly": 400 * DAY}, mode=LockMode.GOVERNANCE)
    protector = Protector(bucket.locks, policy)
    pack = "packs/daily/ab/" + "ab" * 16
    periods = {pack: DAY, "log/000000000001.json": 400 * DAY, "keys/x.a.json": 400 * DAY, "head.json": None}
    for key, period in periods.items():
        bucket.store.put(key, b"x")
        protector(key)
        found = bucket.locks.state(key)
        assert found.until == (None if period is None else found.written_at + period), key
    assert protector.protected == 3


@pytest.mark.parametrize(
    "wrong", [{"tiers": {}}, {"tiers": {"daily": timedelta(0)}}, {"tiers": {"daily": DAY}, "least": 1.0}]
)
def test_a_policy_that_locks_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        LockPolicy(**wrong)  # type: ignore[arg-type]
