"""Azure: the management API, Graph and Key Vault on strict stubs; Azurite, which has none of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from azure_stub import Answer, Stub, arm_error, serving
from holdfast.engine.audit.posture import CHECKS, Result, Status, as_ocsf
from holdfast.engine.audit.posture.privileges import published
from holdfast.engine.config import Connection
from ocsf_world import assert_valid
from posture_world import ACCOUNT, ACCOUNT_ID, CONTAINER, PRINCIPAL, SUBSCRIPTION, TOKEN, Documents, run, vault_at

AGO = "2026-10-20T00:00:00Z"
OLD = "2025-01-01T00:00:00.1234567Z"
CLIENT = "c11e"
BLOBS = f"{ACCOUNT_ID}/blobServices/default"
IN = f"{BLOBS}/containers/{CONTAINER}"
ROLE = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions/r1"
ASSIGNMENTS = f"{ACCOUNT_ID}/providers/Microsoft.Authorization/roleAssignments"
TRAIL = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/trail"
ACTIVITY = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Insights/diagnosticSettings"
DIAGNOSTICS = f"{BLOBS}/providers/Microsoft.Insights/diagnosticSettings"
ACCOUNTS = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Storage/storageAccounts"
USERS = "/v1.0/reports/authenticationMethods/userRegistrationDetails"
ROTATION = "/keys/k/rotationpolicy"


def account(**changes: Any) -> dict[str, Any]:
    properties = {
        "encryption": {"keySource": "Microsoft.Storage", "requireInfrastructureEncryption": True},
        "allowBlobPublicAccess": False,
        "supportsHttpsTrafficOnly": True,
        "minimumTlsVersion": "TLS1_2",
        "keyCreationTime": {"key1": AGO, "key2": AGO},
        **changes,
    }
    return {"id": ACCOUNT_ID, "name": ACCOUNT, "properties": properties}


def logs(*categories: str) -> dict[str, Any]:
    return {"properties": {"logs": [{"category": one, "enabled": True} for one in categories]}, "name": "all"}


def sound() -> dict[str, Any]:
    return {
        "/subscriptions": {"value": [{"subscriptionId": "other"}, {"subscriptionId": SUBSCRIPTION}]},
        "/subscriptions/other/providers/Microsoft.Storage/storageAccounts": {"value": []},
        ACCOUNTS: {"value": [{"id": "x", "name": "another", "properties": {}}, account()]},
        IN: {"properties": {"publicAccess": "None", "immutableStorageWithVersioning": {"enabled": True}}},
        BLOBS: {"properties": {"isVersioningEnabled": True, "deleteRetentionPolicy": {"enabled": True}}},
        DIAGNOSTICS: {"value": [logs("StorageRead"), logs("StorageRead", "StorageWrite", "StorageDelete")]},
        ACTIVITY: {
            "value": [
                {
                    "name": "all",
                    "properties": {
                        "storageAccountId": TRAIL,
                        "logs": [{"categoryGroup": "allLogs", "enabled": True}],
                    },
                }
            ]
        },
        TRAIL: {"properties": {"allowBlobPublicAccess": False}},
        f"{TRAIL}/blobServices/default": {"properties": {"isVersioningEnabled": True}},
        ASSIGNMENTS: {
            "value": [
                {
                    "id": "a1",
                    "properties": {"roleDefinitionId": ROLE, "principalId": PRINCIPAL, "scope": ACCOUNT_ID},
                }
            ]
        },
        ROLE: {"properties": {"roleName": "Holdfast exporter", "permissions": [arm_permissions("exporter")]}},
        USERS: {
            "value": [
                {"userPrincipalName": "ann@example.com", "isMfaRegistered": True},
                {"userPrincipalName": "bob@example.com", "isMfaRegistered": True},
            ]
        },
        "/v1.0/applications": {
            "value": [
                {
                    "appId": CLIENT,
                    "passwordCredentials": [
                        {"keyId": "s1", "startDateTime": AGO, "endDateTime": "2027-04-01T00:00:00Z"}
                    ],
                }
            ]
        },
        ROTATION: {
            "lifetimeActions": [{"trigger": {"timeAfterCreate": "P90D"}, "action": {"type": "Rotate"}}],
        },
    }


def arm_permissions(role: str) -> dict[str, Any]:
    """A published definition in the words of ARM's answer."""
    found = published("azure", role)
    return {"actions": found["Actions"], "dataActions": found["DataActions"], "notActions": [], "notDataActions": []}


class World:
    """Azure's settings, which a test changes, and the connection to them."""

    def __init__(self) -> None:
        self.documents = Documents(copy.deepcopy(sound()))
        self.stub = Stub(self._answer)
        self.url = ""

    def _answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer | None:
        is_graph = path.startswith("/v1.0/")
        if method != "GET" or (not is_graph and "api-version" not in query):
            return arm_error(400, "MissingApiVersionParameter")
        self.documents.link = "@odata.nextLink" if is_graph else "nextLink"
        self.documents.url = self.url
        return self.documents(method, path, query, body)

    def connection(self, **extra: Any) -> Connection:
        extra = {
            "token": TOKEN,
            "tenant_id": "t",
            "posture_endpoints": {"arm": self.url, "graph": self.url},
            **extra,
        }
        return Connection(conn_id="az", conn_type="wasb", host=ACCOUNT, login=CLIENT, password="secret", extra=extra)

    def result(self, check_id: str, *, connection: Connection | None = None, **topology: Any) -> Result:
        site = {
            "cloud": "azure",
            "region": "westeurope",
            "jurisdiction": "EU",
            "connection": "az",
            "bucket": CONTAINER,
        }
        (found,) = run(connection or self.connection(), site, check_id, **topology).results
        assert_valid(as_ocsf(found, datetime.now(UTC)))
        return found

    def set(self, path: str, document: Any) -> None:
        self.documents.documents[path] = document

    def set_account(self, **changes: Any) -> None:
        self.set(ACCOUNTS, {"value": [account(**changes)]})

    def with_key(self, **changes: Any) -> None:
        key = {"keyvaulturi": self.url, "keyname": "k", **changes}
        self.set_account(encryption={"keySource": "Microsoft.Keyvault", "keyvaultproperties": key})


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    with serving(world.stub) as world.url:
        yield world


@pytest.mark.parametrize("check_id", [check.check_id for check in CHECKS if check.check_id != "key-rotation"])
def test_what_is_set_passes(world: World, check_id: str) -> None:
    found = world.result(check_id)
    assert found.status is Status.PASS, found.found
    assert found.asked_at == world.url


def test_a_key_of_a_vault_is_named_and_must_be_rotated_by_it(world: World) -> None:
    assert world.result("key-rotation").status is Status.NOT_APPLICABLE
    world.with_key()
    assert world.result("encryption-at-rest").found.endswith("/keys/k")
    assert world.result("key-rotation").status is Status.PASS
    world.with_key(keyversion="0123")
    assert world.result("key-rotation").status is Status.FAIL
    world.with_key()
    world.set(ROTATION, {"lifetimeActions": [{"action": {"type": "Notify"}}]})
    assert world.result("key-rotation").status is Status.FAIL


NOTHING = {"value": []}


@pytest.mark.parametrize(
    ("check_id", "path", "document"),
    [
        ("versioning", BLOBS, {"properties": {"isVersioningEnabled": False}}),
        ("object-lock", IN, {"properties": {"immutabilityPolicy": {"properties": {"state": "Unlocked"}}}}),
        ("public-access", IN, {"properties": {"publicAccess": "Blob"}}),
        ("public-access", ACCOUNTS, {"value": [account(allowBlobPublicAccess=True)]}),
        ("public-access", ACCOUNTS, {"value": [account(allowBlobPublicAccess=None)]}),
        ("tls-only", ACCOUNTS, {"value": [account(minimumTlsVersion="TLS1_0")]}),
        ("tls-only", ACCOUNTS, {"value": [account(supportsHttpsTrafficOnly=False)]}),
        ("data-access-logs", DIAGNOSTICS, {"value": [logs("StorageRead", "StorageWrite")]}),
        ("data-access-logs", DIAGNOSTICS, NOTHING),
        ("mfa", USERS, {"value": [{"isMfaRegistered": True}, {"userPrincipalName": "eve"}]}),
        ("stale-credentials", ACCOUNTS, {"value": [account(keyCreationTime={"key1": OLD, "key2": AGO})]}),
        (
            "stale-credentials",
            "/v1.0/applications",
            {"value": [{"passwordCredentials": [{"keyId": "s", "startDateTime": OLD, "endDateTime": AGO}]}]},
        ),
        ("audit-trail", ACTIVITY, {"value": [logs("Administrative", "Security")]}),
        ("audit-trail-protected", TRAIL, {"properties": {"allowBlobPublicAccess": True}}),
        ("audit-trail-protected", ACTIVITY, NOTHING),
        (
            "least-privilege",
            ROLE,
            {"properties": {"roleName": "Contributor", "permissions": [{"actions": ["*"], "dataActions": []}]}},
        ),
    ],
)
def test_what_is_not_set_fails(world: World, check_id: str, path: str, document: dict[str, Any]) -> None:
    world.set(path, document)
    found = world.result(check_id, vaults=vault_at("site-a"))
    assert found.status is Status.FAIL, found.found
    assert found.remediation


def test_forbidden_account_keys_cannot_be_old(world: World) -> None:
    world.set_account(keyCreationTime={"key1": OLD, "key2": OLD}, allowSharedKeyAccess=False)
    assert world.result("stale-credentials").status is Status.PASS


def test_keys_whose_age_is_not_told_are_unknown(world: World) -> None:
    world.set_account(keyCreationTime=None)
    assert world.result("stale-credentials").status is Status.UNKNOWN


@pytest.mark.parametrize("check_id", [check.check_id for check in CHECKS])
def test_a_refusal_is_unknown_and_says_why(world: World, check_id: str) -> None:
    world.documents.refused = {"/"}
    found = world.result(check_id)
    assert found.status is Status.UNKNOWN
    assert "AuthorizationFailed" in found.found


def test_graph_that_is_refused_leaves_the_rest_known(world: World) -> None:
    world.documents.refused = {"/v1.0/"}
    assert world.result("mfa").status is Status.UNKNOWN
    assert world.result("stale-credentials").status is Status.UNKNOWN
    assert world.result("tls-only").status is Status.PASS


def test_an_account_no_subscription_shows_is_unknown(world: World) -> None:
    world.set(ACCOUNTS, NOTHING)
    found = world.result("tls-only")
    assert found.status is Status.UNKNOWN
    assert "2 subscriptions" in found.found


def test_a_next_page_at_another_host_is_not_followed(world: World) -> None:
    world.set("/subscriptions", {"items": 1, "nextLink": "https://elsewhere.example/?x=1"})
    found = world.result("tls-only")
    assert found.status is Status.UNKNOWN
    assert "another host" in found.found


def test_an_account_key_opens_no_settings(world: World) -> None:
    connection = Connection(conn_id="az", conn_type="wasb", login=ACCOUNT, password="a2V5")
    found = world.result("tls-only", connection=connection)
    assert found.status is Status.UNKNOWN
    assert "an account key" in found.found


def test_azurite_shows_no_settings_and_so_nothing_passes(world: World) -> None:
    host = "http://127.0.0.1:10000/devstoreaccount1"
    connection = Connection(conn_id="az", conn_type="wasb", login="devstoreaccount1", password="a2V5", host=host)
    for check in CHECKS:
        found = world.result(check.check_id, connection=connection)
        assert (found.status, found.asked_at) == (Status.UNKNOWN, host)
