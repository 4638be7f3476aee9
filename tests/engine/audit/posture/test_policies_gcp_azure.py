"""The published roles of Google and Azure, tried as AWS's are: the same work, the gate of each cloud before its server.

Google's is the project's own storage server, Azure's Azurite; locks of Azure are a Blob service of the tests'. None of
the clouds was ever asked.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import blob_service
from enforcing import Gate, enforcing
from enforcing_azure import RoleDefinition
from enforcing_gcs import CustomRole
from holdfast.engine.audit.posture.privileges import azure_actions, published
from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.objectstore.errors import PermissionRefused
from holdfast.engine.vault.locks import LockMode, ObjectLocks
from holdfast.errors import HoldfastError
from lock_world import LockingBucket, azure_container, gcs_bucket, gcs_server, put_past
from policy_world import ROLES, RoleWorld

DAY = timedelta(days=1)
TOPOLOGY = Path(__file__).resolve().parents[4] / "include" / "holdfast.yaml"
CONTAINER = "Microsoft.Storage/storageAccounts/blobServices/containers"
LOCK = f"{CONTAINER}/blobs/immutableStorage/runAsSuperUser/action"
VERSION = f"{CONTAINER}/blobs/deleteBlobVersion/action"


def is_storage(action: str) -> bool:
    """Keys are used by the KMS' own clients, whose tests are elsewhere."""
    return not action.startswith(("cloudkms.", "Microsoft.KeyVault/"))


@dataclass
class Trial:
    """One role at its work behind the gate."""

    gate: Gate
    world: RoleWorld
    rules: Callable[[str | None], Any]

    def may(self, without: str | None = None) -> None:
        self.gate.rules = self.rules(without)
        for seen in (self.gate.used, self.gate.refused, self.gate.unknown, self.gate.writes):
            seen.clear()


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Gate]]:
    nothing: dict[str, Any] = {"includedPermissions": []}
    with gcs_server(tmp_path_factory.mktemp("gcs")) as url, enforcing(url, CustomRole(nothing, url)) as gate:
        yield url, gate


@pytest.fixture
def google(gcs: tuple[str, Gate], tmp_path: Path) -> Callable[[str], Trial]:
    url, gate = gcs

    def made(role: str) -> Trial:
        direct = gcs_bucket(url)
        extra = {**direct.connection.extra, "endpoint_url": gate.url}
        gated = replace(direct, connection=direct.connection.model_copy(update={"extra": extra}))
        world = RoleWorld(direct, gated, tmp_path)
        return Trial(gate, world, lambda without: CustomRole(published("gcp", role), url, without=without))

    return made


@pytest.fixture
def azure(sandbox_env: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], Trial]]:
    site = load_topology(TOPOLOGY, sandbox_env).site("azure-westeurope")
    connection = EnvironmentConnections(sandbox_env).get(site.connection)
    server, _, account = (connection.host or "").rpartition("/")
    with enforcing(server, RoleDefinition({"Actions": [], "DataActions": []})) as gate:

        def made(role: str) -> Trial:
            own = site.model_copy(update={"prefix": uuid.uuid4().hex})
            direct = LockingBucket("azure", own, connection, hides=True)
            behind = connection.model_copy(update={"host": f"{gate.url}/{account}"})
            world = RoleWorld(direct, replace(direct, connection=behind), tmp_path, locks=False)
            return Trial(gate, world, lambda without: RoleDefinition(published("azure", role), without=without))

        yield made


def google_permissions(role: str) -> list[str]:
    return [one for one in published("gcp", role)["includedPermissions"] if is_storage(one)]


def azure_permissions(role: str) -> list[str]:
    """What the role's work on Azurite asks for; locks and versions, which it has not, are tried below."""
    locking = {LOCK, VERSION, f"{CONTAINER}/read"}
    return [one for one in azure_actions(published("azure", role)) if is_storage(one) and one not in locking]


#: What a role does without: the object that asked the store for its time then stays until a collection. Deleting by
#: batch, as obstore does on Azure, asks for the right to change the container, which is too much for that.
#: Google's library asks for the bucket's settings by itself, in the background.
TIDYING = {("azure", "vault-admin"): {f"{CONTAINER}/write"}, ("gcs", "shredder"): {"storage.buckets.get"}}
#: Without it the shredding ends, and its certificate is brought by the next export.
CERTIFIES = {("shredder", "storage.objects.create"), ("shredder", f"{CONTAINER}/blobs/write")}


def all_is_enough(it: Trial, role: str, permissions: list[str]) -> None:
    act = ROLES[role](it.world)
    it.may()
    act()
    assert not {need.action for _, need in it.gate.refused} - TIDYING.get((it.world.direct.kind, role), set())
    assert not it.gate.unknown
    assert it.gate.used - {f"{CONTAINER}/read"} == set(permissions)


def without_one(it: Trial, role: str, permission: str) -> HoldfastError:
    act = ROLES[role](it.world)
    it.may(without=permission)
    with pytest.raises(HoldfastError) as raised:
        act()
    tidying = TIDYING.get((it.world.direct.kind, role), set())
    assert {need.action for _, need in it.gate.refused} - tidying == {permission}
    assert isinstance(raised.value, PermissionRefused), repr(raised.value)
    it.may()
    act()  # what was begun is finished once the right is there
    return raised.value


@pytest.mark.parametrize("role", ["collector", "exporter", "shredder"])
def test_googles_published_role_is_enough_and_nothing_in_it_is_idle(google: Any, role: str) -> None:
    all_is_enough(google(role), role, google_permissions(role))


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_each_of_googles_roles_is_enough(google: Any, role: str) -> None:
    all_is_enough(google(role), role, google_permissions(role))


GOOGLES_FEW = [
    ("collector", "storage.objects.get"),
    ("exporter", "storage.objects.setRetention"),
    ("shredder", "storage.objects.delete"),
]


@pytest.mark.parametrize(("role", "permission"), GOOGLES_FEW)
def test_without_one_of_googles_permissions_the_work_is_refused(google: Any, role: str, permission: str) -> None:
    error = without_one(google(role), role, permission)
    assert permission in str(error) or "403" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "permission"),
    [(role, one) for role in ROLES for one in google_permissions(role) if (role, one) not in CERTIFIES],
)
def test_without_any_of_googles_permissions_the_work_is_refused(google: Any, role: str, permission: str) -> None:
    without_one(google(role), role, permission)


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_each_of_azures_roles_is_enough(azure: Any, role: str) -> None:
    all_is_enough(azure(role), role, azure_permissions(role))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "action"),
    [(role, one) for role in ROLES for one in azure_permissions(role) if (role, one) not in CERTIFIES],
)
def test_without_any_of_azures_actions_the_work_is_refused(azure: Any, role: str, action: str) -> None:
    without_one(azure(role), role, action)


@pytest.mark.slow
@pytest.mark.parametrize(("cloud", "permission"), [("google", "objects.create"), ("azure", "blobs/write")])
def test_a_shredding_ends_without_its_certificate(request: pytest.FixtureRequest, cloud: str, permission: str) -> None:
    it = request.getfixturevalue(cloud)("shredder")
    act = ROLES["shredder"](it.world)
    (missing,) = [action for _, action in CERTIFIES if action.endswith(permission)]
    it.may(without=missing)
    act()
    assert {need.action for _, need in it.gate.refused} - {"storage.buckets.get"} == {missing}


# -- what must not be possible ----------------------------------------------------------------------------------------


def test_googles_exporter_neither_deletes_replaces_nor_shortens(google: Any) -> None:
    it = google("exporter")
    it.world.direct.store.put("k", b"x")
    locks = it.world.direct.locks
    until = datetime.now(UTC).replace(microsecond=0) + 30 * DAY
    locks.extend("k", until, LockMode.GOVERNANCE)
    it.may()
    store = it.world.gated.store
    with pytest.raises(PermissionRefused):
        store.delete("k")
    with pytest.raises(PermissionRefused):
        store.put("k", b"replaced")
    blob = it.world.gated.locks._blob("k")  # type: ignore[attr-defined]
    blob.retention.retain_until_time = datetime.now(UTC) + DAY
    with pytest.raises(Exception, match="403"):
        blob.patch(override_unlocked_retention=True, timeout=5, retry=None)
    assert "storage.objects.overrideUnlockedRetention" in {need.action for _, need in it.gate.refused}
    assert not it.gate.writes
    assert (locks.state("k").until, it.world.direct.store.get("k")) == (until, b"x")


def test_googles_collector_writes_nothing(google: Any) -> None:
    it = google("collector")
    it.world.direct.store.put("k", b"x")
    it.may()
    for change in (
        lambda: it.world.gated.store.put("new", b"y"),
        lambda: it.world.gated.store.delete("k"),
        lambda: it.world.gated.locks.extend("k", datetime.now(UTC) + DAY, LockMode.GOVERNANCE),
    ):
        with pytest.raises(PermissionRefused):
            change()
    assert not it.gate.writes


@dataclass
class Locking:
    """Azure's locks: past the gate, and through it."""

    gate: Gate
    direct: LockingBucket
    locks: ObjectLocks

    def may(self, role: str, without: str | None = None) -> None:
        self.gate.rules = RoleDefinition(published("azure", role), without=without)
        self.gate.refused.clear()
        self.gate.writes.clear()


@pytest.fixture
def locking() -> Iterator[Locking]:
    nothing = RoleDefinition({"Actions": [], "DataActions": []})
    with blob_service.serving(blob_service.BlobService()) as url, enforcing(url, nothing) as gate:
        direct, behind = azure_container(url), azure_container(gate.url)
        behind.site = direct.site
        put_past(direct, "k", b"x")
        yield Locking(gate, direct, behind.locks)


@pytest.mark.parametrize("action", [LOCK, f"{CONTAINER}/read", f"{CONTAINER}/blobs/read"])
def test_azures_exporter_locks_with_its_role_and_not_without_one_action(locking: Locking, action: str) -> None:
    until = datetime.now(UTC).replace(microsecond=0) + DAY

    def lock() -> None:
        assert locking.locks.capability().enforces
        locking.locks.extend("k", until, LockMode.COMPLIANCE)

    locking.may("exporter", without=action)
    with pytest.raises(PermissionRefused):
        lock()
    assert {need.action for _, need in locking.gate.refused} == {action}
    assert locking.direct.locks.state("k").until is None
    locking.may("exporter")
    lock()
    assert locking.direct.locks.state("k").until == until


@pytest.mark.parametrize("who", ["vault-admin", "shredder"])
@pytest.mark.parametrize("action", [VERSION, f"{CONTAINER}/blobs/delete"])
def test_azures_roles_that_remove_for_good_do_and_no_others(locking: Locking, action: str, who: str) -> None:
    for role in ("vault-writer", "exporter", "collector"):
        locking.may(role)
        with pytest.raises(PermissionRefused):
            locking.locks.remove("k")
        assert not locking.gate.writes
    locking.may(who, without=action)
    with pytest.raises(PermissionRefused):
        locking.locks.remove("k")
    locking.may(who)
    locking.locks.remove("k")
    assert list(locking.direct.locks.objects("")) == []
