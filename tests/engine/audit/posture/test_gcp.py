"""Google Cloud: Cloud Storage on the project's own server, everything else on a strict stub."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from azure_stub import Answer, Stub, serving
from holdfast.engine.audit.posture import CHECKS, Result, Status, as_ocsf
from holdfast.engine.audit.posture.privileges import published
from holdfast.engine.config import Connection
from lock_world import gcs_server
from ocsf_world import assert_valid
from posture_world import NOW, Documents, run, vault_at

PROJECT, BUCKET = "risk", "site-bucket"
EMAIL = "holdfast@risk.iam.gserviceaccount.com"
KEY = "projects/risk/locations/eu/keyRings/r/cryptoKeys/k"
AGO = "2026-10-20T00:00:00Z"
ROBOT = f"projects/{PROJECT}/serviceAccounts/{EMAIL}"

SOUND: dict[str, Any] = {
    f"/storage/v1/b/{BUCKET}": {
        "name": BUCKET,
        "encryption": {"defaultKmsKeyName": KEY},
        "versioning": {"enabled": True},
        "objectRetention": {"mode": "Enabled"},
        "iamConfiguration": {
            "publicAccessPrevention": "enforced",
            "uniformBucketLevelAccess": {"enabled": True},
        },
    },
    f"/storage/v1/b/{BUCKET}/iam": {"bindings": [{"role": "roles/x", "members": ["user:somebody"]}]},
    "/storage/v1/b/trail": {
        "retentionPolicy": {"isLocked": True, "retentionPeriod": "31536000"},
        "iamConfiguration": {"publicAccessPrevention": "enforced"},
    },
    f"/v1/{KEY}": {"primary": {"state": "ENABLED"}, "rotationPeriod": "7776000s", "nextRotationTime": AGO},
    f"/v2/projects/{PROJECT}/policies/storage.secureHttpTransport:getEffectivePolicy": {
        "spec": {"rules": [{"enforce": True}]}
    },
    f"/v2/projects/{PROJECT}/policies/storage.publicAccessPrevention:getEffectivePolicy": {
        "spec": {"rules": [{"enforce": False}]}
    },
    f"/v1/projects/{PROJECT}:getIamPolicy": {
        "auditConfigs": [
            {
                "service": "storage.googleapis.com",
                "auditLogConfigs": [{"logType": "DATA_READ"}, {"logType": "DATA_WRITE"}],
            }
        ],
        "bindings": [{"role": "projects/risk/roles/holdfast", "members": [f"serviceAccount:{EMAIL}"]}],
    },
    "/v1/projects/risk/roles/holdfast": published("gcp", "exporter"),
    f"/v2/projects/{PROJECT}/sinks": {
        "sinks": [
            {"name": "_Default", "destination": "logging.googleapis.com/projects/risk/locations/global/buckets/x"},
            {
                "name": "all",
                "destination": "storage.googleapis.com/trail",
                "filter": 'logName:"cloudaudit.googleapis.com"',
            },
        ]
    },
    "/admin/directory/v1/users": {
        "users": [
            {"primaryEmail": "ann@example.com", "isEnrolledIn2Sv": True},
            {"primaryEmail": "bob@example.com", "isEnrolledIn2Sv": True},
            {"primaryEmail": "gone@example.com", "isEnrolledIn2Sv": False, "suspended": True},
        ]
    },
    f"/v1/projects/{PROJECT}/serviceAccounts": {"accounts": [{"name": ROBOT}]},
    f"/v1/{ROBOT}/keys": {"keys": [{"name": f"{ROBOT}/keys/1", "validAfterTime": AGO}]},
    f"/v1/projects/{PROJECT}/locations/global/activityTypes/serviceAccountKeyLastAuthentication/activities:query": {
        "activities": [
            {
                "fullResourceName": f"//iam.googleapis.com/{ROBOT}/keys/1",
                "activity": {"lastAuthenticatedTime": AGO},
            }
        ]
    },
}
SERVICES = ("storage", "cloudkms", "iam", "cloudresourcemanager", "logging", "orgpolicy", "policyanalyzer", "admin")


class World:
    """Google's settings, which a test changes, and the connection to them."""

    def __init__(self) -> None:
        self.documents = Documents(copy.deepcopy(SOUND), link="nextPageToken")
        self.stub = Stub(self.documents)
        self.url = ""

    def connection(self, **extra: Any) -> Connection:
        extra = {
            "project": PROJECT,
            "token": "t",
            "keyfile_dict": {"client_email": EMAIL},
            "posture_endpoints": dict.fromkeys(SERVICES, self.url),
            **extra,
        }
        return Connection(conn_id="gcp", conn_type="google_cloud_platform", extra=extra)

    def result(self, check_id: str, *, connection: Connection | None = None, **topology: Any) -> Result:
        site = {
            "cloud": "gcp",
            "region": "europe-west1",
            "jurisdiction": "EU",
            "connection": "gcp",
            "bucket": BUCKET,
            **topology.pop("site", {}),
        }
        (found,) = run(connection or self.connection(), site, check_id, **topology).results
        assert_valid(as_ocsf(found, datetime.now(UTC)))
        return found

    def change(self, path: str, **members: Any) -> None:
        self.documents.documents[path] = {**self.documents.documents[path], **members}


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    with serving(world.stub) as world.url:
        yield world


@pytest.mark.parametrize("check_id", [check.check_id for check in CHECKS])
def test_what_is_set_passes(world: World, check_id: str) -> None:
    found = world.result(check_id)
    assert found.status is Status.PASS, found.found
    assert found.asked_at == world.url


B = f"/storage/v1/b/{BUCKET}"
POLICY = f"/v1/projects/{PROJECT}:getIamPolicy"
OPEN = {"publicAccessPrevention": "inherited"}


@pytest.mark.parametrize(
    ("check_id", "path", "members"),
    [
        ("key-rotation", f"/v1/{KEY}", {"rotationPeriod": None}),
        ("key-rotation", f"/v1/{KEY}", {"rotationPeriod": "63072000s"}),
        ("key-rotation", f"/v1/{KEY}", {"primary": {"state": "DISABLED"}}),
        ("versioning", B, {"versioning": {}}),
        ("object-lock", B, {"objectRetention": None}),
        ("public-access", B, {"iamConfiguration": OPEN}),
        ("public-access", B, {"iamConfiguration": OPEN, "acl": [{"entity": "allUsers", "role": "READER"}]}),
        (
            "tls-only",
            f"/v2/projects/{PROJECT}/policies/storage.secureHttpTransport:getEffectivePolicy",
            {"spec": {}},
        ),
        ("data-access-logs", POLICY, {"auditConfigs": []}),
        (
            "data-access-logs",
            POLICY,
            {
                "auditConfigs": [
                    {
                        "service": "allServices",
                        "auditLogConfigs": [
                            {"logType": "DATA_READ", "exemptedMembers": ["user:x"]},
                            {"logType": "DATA_WRITE"},
                        ],
                    }
                ]
            },
        ),
        ("mfa", "/admin/directory/v1/users", {"users": [{"primaryEmail": "a"}, {"isEnrolledIn2Sv": True}]}),
        ("audit-trail", f"/v2/projects/{PROJECT}/sinks", {"sinks": []}),
        ("audit-trail-protected", "/storage/v1/b/trail", {"retentionPolicy": {"isLocked": False}}),
        (
            "stale-credentials",
            f"/v1/{ROBOT}/keys",
            {"keys": [{"name": "k/9", "validAfterTime": "2025-01-01T00:00:00Z"}]},
        ),
        ("least-privilege", "/v1/projects/risk/roles/holdfast", {"includedPermissions": ["storage.buckets.delete"]}),
    ],
)
def test_what_is_not_set_fails(world: World, check_id: str, path: str, members: dict[str, Any]) -> None:
    world.change(path, **members)
    found = world.result(check_id, vaults=vault_at("site-a"))
    assert found.status is Status.FAIL, found.found
    assert found.remediation


@pytest.mark.parametrize("check_id", [check.check_id for check in CHECKS])
def test_a_refusal_is_unknown_and_says_why(world: World, check_id: str) -> None:
    world.documents.refused = {"/"}
    found = world.result(check_id)
    assert found.status is Status.UNKNOWN
    assert "AuthorizationFailed" in found.found or "403" in found.found


def test_everybody_by_role_fails_and_the_organisations_prevention_passes(world: World) -> None:
    world.change(B, iamConfiguration=OPEN)
    prevention = f"/v2/projects/{PROJECT}/policies/storage.publicAccessPrevention:getEffectivePolicy"
    world.change(prevention, spec={"rules": [{"enforce": True}]})
    assert world.result("public-access").status is Status.PASS
    world.change(f"{B}/iam", bindings=[{"role": "roles/storage.objectViewer", "members": ["allUsers"]}])
    assert world.result("public-access").status is Status.FAIL


@pytest.mark.parametrize(
    "logs",
    [
        "NOT logName:cloudaudit.googleapis.com",
        "severity>=ERROR -logName:cloudaudit.googleapis.com",
        "logName:cloudaudit.googleapis.com AND severity>=ERROR",
    ],
)
def test_a_sink_whose_filter_excludes_something_does_not_pass(world: World, logs: str) -> None:
    sink = {"name": "odd", "destination": "storage.googleapis.com/trail", "filter": logs}
    world.change(f"/v2/projects/{PROJECT}/sinks", sinks=[sink])
    assert world.result("audit-trail").status is Status.UNKNOWN
    world.change(f"/v2/projects/{PROJECT}/sinks", sinks=[{**sink, "filter": "", "exclusions": [{"filter": "x"}]}])
    assert world.result("audit-trail").status is Status.UNKNOWN


@pytest.mark.parametrize(
    "logs",
    [
        "",
        "logName:cloudaudit.googleapis.com",
        'log_id("cloudaudit.googleapis.com/activity") OR log_id("cloudaudit.googleapis.com/data_access")',
        'logName="projects/my-project/logs/cloudaudit.googleapis.com%2Factivity"',
    ],
)
def test_a_sink_of_the_audit_logs_alone_passes(world: World, logs: str) -> None:
    sink = {"name": "all", "destination": "storage.googleapis.com/trail", "filter": logs}
    world.change(f"/v2/projects/{PROJECT}/sinks", sinks=[sink])
    assert world.result("audit-trail").status is Status.PASS


def test_a_key_that_was_not_used_for_long_is_stale(world: World) -> None:
    path = next(path for path in SOUND if "activities:query" in path)
    long_ago = (NOW - timedelta(days=91)).isoformat()
    activity = {"lastAuthenticatedTime": long_ago}
    world.change(path, activities=[{"fullResourceName": f"//x/{ROBOT}/keys/1", "activity": activity}])
    assert world.result("stale-credentials").status is Status.FAIL


def test_basic_roles_are_beyond_what_is_published(world: World) -> None:
    world.change(POLICY, bindings=[{"role": "roles/editor", "members": [f"serviceAccount:{EMAIL}"]}])
    world.documents.documents["/v1/roles/editor"] = {
        "includedPermissions": ["storage.objects.get", "compute.instances.create"]
    }
    found = world.result("least-privilege")
    assert found.status is Status.FAIL
    assert found.evidence["beyond"] == {"roles/editor on projects/risk": ["compute.instances.create"]}


def test_a_server_that_throttles_is_asked_again_and_one_that_stays_down_is_unknown(world: World) -> None:
    world.stub.fail("GET", Answer(429, {}, {"Retry-After": "1"}), times=2)
    assert world.result("versioning").status is Status.PASS
    world.stub.fail("GET", Answer(503, {}), times=4)
    assert world.result("versioning").status is Status.UNKNOWN


def test_an_answer_of_another_form_is_unknown(world: World) -> None:
    world.documents.documents[f"/v1/{KEY}"] = {"primary": "ENABLED"}
    assert world.result("key-rotation").status is Status.UNKNOWN
    world.documents.documents[B] = ["not a document"]
    assert world.result("versioning").status is Status.UNKNOWN


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with gcs_server(tmp_path_factory.mktemp("gcs")) as url:
        yield url


def test_the_sandboxs_storage_says_what_it_has_and_nothing_passes_by_itself(world: World, gcs: str) -> None:
    for name, query in (("plain", ""), ("locked", "&enableObjectRetention=true")):
        body = {"name": f"{name}-bucket", "versioning": {"enabled": name == "locked"}}
        httpx.post(f"{gcs}/storage/v1/b?project=p{query}", json=body, trust_env=False).raise_for_status()
    extra = {"endpoint_url": gcs, "is_anonymous": True, "project": "p"}
    connection = Connection(conn_id="gcp", conn_type="google_cloud_platform", extra=extra)
    expected = {
        "versioning": (Status.FAIL, Status.PASS),
        "object-lock": (Status.FAIL, Status.PASS),
        "encryption-at-rest": (Status.UNKNOWN, Status.UNKNOWN),
        "tls-only": (Status.UNKNOWN, Status.UNKNOWN),
        "mfa": (Status.UNKNOWN, Status.UNKNOWN),
        "least-privilege": (Status.UNKNOWN, Status.UNKNOWN),
    }
    for check_id, statuses in expected.items():
        for bucket, status in zip(("plain-bucket", "locked-bucket"), statuses, strict=True):
            found = world.result(check_id, connection=connection, site={"bucket": bucket}, vaults=vault_at("site-a"))
            assert (found.status, found.asked_at) == (status, gcs), (check_id, bucket, found.found)


def test_a_next_page_is_asked_for_until_there_is_none(world: World) -> None:
    accounts = [{"name": f"{ROBOT}{number}", "disabled": number != 6} for number in range(7)]
    world.change(f"/v1/projects/{PROJECT}/serviceAccounts", accounts=accounts)
    world.documents.documents[f"/v1/{ROBOT}6/keys"] = {
        "keys": [{"name": "k/6", "validAfterTime": "2020-01-01T00:00:00Z"}]
    }
    found = world.result("stale-credentials")
    assert (found.status, found.evidence["accounts"]) == (Status.FAIL, 7)


def test_tokens_of_a_real_login_are_not_sent_to_a_storage_emulators_neighbours(gcs: str) -> None:
    world = World()
    extra = {"endpoint_url": gcs, "project": "p", "token": "t", "posture_endpoints": {}}
    found = world.result(
        "stale-credentials", connection=Connection(conn_id="g", conn_type="google_cloud_platform", extra=extra)
    )
    assert found.status is Status.UNKNOWN
    assert "an endpoint for Cloud Storage alone" in found.found


def test_what_the_identity_may_at_any_of_the_sites_counts(world: World) -> None:
    """The second site has its own bucket, at which the same login may do more."""
    other = "other-bucket"
    world.documents.documents[f"/storage/v1/b/{other}/iam"] = {
        "bindings": [{"role": "roles/storage.admin", "members": [f"serviceAccount:{EMAIL}"]}]
    }
    world.documents.documents["/v1/roles/storage.admin"] = {"includedPermissions": ["storage.buckets.delete"]}
    site = {"cloud": "gcp", "region": "europe-west1", "jurisdiction": "EU", "connection": "gcp", "bucket": BUCKET}
    sites = {"site-a": site, "site-b": {**site, "region": "europe-west4", "bucket": other}}
    (found,) = run(world.connection(), site, "least-privilege", sites=sites).results
    assert found.status is Status.FAIL
    assert found.evidence["beyond"] == {f"roles/storage.admin on {other}": ["storage.buckets.delete"]}
