"""Audit records as three clouds write them, many and varied, made fast: one JSON line each.

Names, shapes and sizes follow the vendors' documentation; principals, resources, addresses and operations are drawn
with a skew, as in real trails. The same seed gives the same records.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 29, 8, tzinfo=UTC)

_PEOPLE = [f"{name}.{i}@example.com" for name in ("ada", "grace", "edsger", "barbara") for i in range(60)]
_AGENTS = [
    "google-cloud-sdk gcloud/541.0.0 command/gcloud.storage.cp invocation-id/5a,gzip(gfe)",
    "apache-airflow/3.3.2 grpc-python/1.76.0,gzip(gfe)",
    "Terraform/1.14.0 (+https://www.terraform.io) terraform-provider-google/7.1",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36,gzip(gfe)",
]


class Draw:
    """Skewed draws and growing times, cheap."""

    def __init__(self, seed: int, count: int) -> None:
        rng = random.Random(seed)
        self.index = rng.choices(range(1 << 16), k=8192)
        self.low = [min(rng.randrange(1000), rng.randrange(1000), rng.randrange(1000)) for _ in range(8191)]
        self.addresses = [f"{rng.randrange(1, 223)}.{rng.randrange(256)}.{rng.randrange(256)}.7" for _ in range(4000)]
        self.step = 3_599_000_000 / max(count, 1)  # microseconds; all in one hour

    def time(self, row: int) -> str:
        seconds, micro = divmod(int(row * self.step), 1_000_000)
        return f"{_SECONDS[seconds]}.{micro:06d}"


_SECONDS = [(START + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S") for second in range(3600)]


def gcp(count: int, seed: int = 1) -> Iterator[bytes]:
    """Cloud Audit Logs: admin activity, data access, policy changes, refusals."""
    draw = Draw(seed, count)
    kinds = _GCP_KINDS
    for row in range(count):
        a, b = draw.low[row % 8191], draw.index[row % 8192]
        log, service, method, resource, kind, labels, request = kinds[(b + a) % len(kinds)]
        who = _PEOPLE[a % len(_PEOPLE)] if b % 3 else f"trainer-{a % 40}@ml-prod-eu.iam.gserviceaccount.com"
        when = draw.time(row)
        denied = b % 53 == 0
        status = '{"code":7,"message":"PERMISSION_DENIED"}' if denied else "{}"
        name = resource % (a, b % 5000)
        yield (
            f'{{"protoPayload":{{"@type":"type.googleapis.com/google.cloud.audit.AuditLog","status":{status},'
            f'"authenticationInfo":{{"principalEmail":"{who}","principalSubject":"user:{who}"}},'
            f'"requestMetadata":{{"callerIp":"{draw.addresses[(a * 7 + b) % 4000] if b % 11 else "private"}",'
            f'"callerSuppliedUserAgent":"{_AGENTS[b % 4]}","requestAttributes":{{"time":"{when}Z","auth":{{}}}},'
            f'"destinationAttributes":{{}}}},"serviceName":"{service}","methodName":"{method}",'
            f'"authorizationInfo":[{{"resource":"{name}","permission":"{method.lower()}",'
            f'"granted":{"false" if denied else "true"},"resourceAttributes":{{}}}}],"resourceName":"{name}",'
            f'"request":{request},"resourceLocation":{{"currentLocations":["europe-west1"]}}}},'
            f'"insertId":"{seed:x}{row:x}z{b:x}","resource":{{"type":"{kind}","labels":{{{labels % (a % 30)}}}}},'
            f'"timestamp":"{when}{b % 1000:03d}Z","severity":"{"ERROR" if denied else "NOTICE" if b % 2 else "INFO"}",'
            f'"logName":"projects/ml-prod-eu/logs/cloudaudit.googleapis.com%2F{log}","receiveTimestamp":"{when}999Z"}}'
        ).encode()


_PROJECT = '"project_id":"ml-prod-eu","location":"europe-west1","zone":"z%d"'
_GCP_KINDS = [
    (
        "data_access",
        "storage.googleapis.com",
        "storage.objects.get",
        "projects/_/buckets/features-%d/objects/day/part-%d.parquet",
        "gcs_bucket",
        '"bucket_name":"features-%d","project_id":"ml-prod-eu","location":"europe-west1"',
        "null",
    ),
    (
        "data_access",
        "storage.googleapis.com",
        "storage.objects.list",
        "projects/_/buckets/features-%d#%d",
        "gcs_bucket",
        '"bucket_name":"features-%d","project_id":"ml-prod-eu","location":"europe-west1"',
        '{"prefix":"day/"}',
    ),
    (
        "data_access",
        "bigquery.googleapis.com",
        "jobservice.insert",
        "projects/ml-prod-eu/datasets/d%d/jobs/j%d",
        "bigquery_dataset",
        '"dataset_id":"market_%d","project_id":"ml-prod-eu"',
        '{"job":{"configuration":{"query":{"query":"SELECT \\"a\\" FROM t WHERE x > 1"}}}}',
    ),
    (
        "activity",
        "compute.googleapis.com",
        "v1.compute.instances.insert",
        "projects/ml-prod-eu/zones/europe-west1-b/instances/n%d-%d",
        "gce_instance",
        _PROJECT,
        '{"@type":"type.googleapis.com/compute.instances.insert","disks":[{"boot":true}],"name":"n"}',
    ),
    (
        "activity",
        "aiplatform.googleapis.com",
        "google.cloud.aiplatform.v1.JobService.CreateCustomJob",
        "projects/ml-prod-eu/locations/europe-west1/customJobs/%d%d",
        "audited_resource",
        _PROJECT,
        '{"parent":"projects/ml-prod-eu","customJob":{"displayName":"fx"}}',
    ),
    (
        "activity",
        "cloudresourcemanager.googleapis.com",
        "SetIamPolicy",
        "projects/ml-prod-eu-%d/%d",
        "project",
        _PROJECT,
        '{"policy":{"bindings":[{"role":"roles/editor","members":["user:x@example.com"]}]}}',
    ),
    (
        "activity",
        "iam.googleapis.com",
        "google.iam.admin.v1.CreateServiceAccountKey",
        "projects/-/serviceAccounts/%d%d",
        "service_account",
        _PROJECT,
        '{"name":"projects/-/serviceAccounts/1"}',
    ),
    (
        "activity",
        "storage.googleapis.com",
        "storage.buckets.delete",
        "projects/_/buckets/old-%d-%d",
        "gcs_bucket",
        '"bucket_name":"old-%d","project_id":"ml-prod-eu","location":"europe-west1"',
        "null",
    ),
]

_SUBSCRIPTION = "0F4D1B52-5A46-4F0A-9B1E-3C6D8B0C2A11"
_AZURE_KINDS = [
    ("MICROSOFT.STORAGE/STORAGEACCOUNTS/LISTKEYS/ACTION", "MICROSOFT.STORAGE/STORAGEACCOUNTS/ML%d", "Administrative"),
    ("MICROSOFT.COMPUTE/VIRTUALMACHINES/WRITE", "MICROSOFT.COMPUTE/VIRTUALMACHINES/VM%d", "Administrative"),
    ("MICROSOFT.COMPUTE/VIRTUALMACHINES/DELETE", "MICROSOFT.COMPUTE/VIRTUALMACHINES/VM%d", "Administrative"),
    ("MICROSOFT.AUTHORIZATION/ROLEASSIGNMENTS/WRITE", "MICROSOFT.AUTHORIZATION/ROLEASSIGNMENTS/R%d", "Administrative"),
    ("MICROSOFT.KEYVAULT/VAULTS/READ", "MICROSOFT.KEYVAULT/VAULTS/KV%d", "Administrative"),
    ("MICROSOFT.MACHINELEARNINGSERVICES/WORKSPACES/JOBS/WRITE", "MICROSOFT.MACHINELEARNINGSERVICES/W/%d", "Policy"),
]


def azure(count: int, seed: int = 1) -> Iterator[bytes]:
    """The Activity Log as a diagnostic setting writes it."""
    draw = Draw(seed, count)
    for row in range(count):
        a, b = draw.low[row % 8191], draw.index[row % 8192]
        operation, resource, category = _AZURE_KINDS[(b + a) % len(_AZURE_KINDS)]
        who = _PEOPLE[a % len(_PEOPLE)]
        kind, signature, level = (
            ("Failure", "Failed.Forbidden", "Error") if b % 47 == 0 else ("Success", "Succeeded.OK", "Information")
        )
        if b % 5 == 0:
            kind, signature = "Start", "Started."
        address = draw.addresses[(a * 7 + b) % 4000]
        path = resource % (a % 200)
        yield (
            f'{{"RoleLocation":"West Europe","ReleaseVersion":"6.2026.1.1","time":"{draw.time(row)}{b % 10}Z",'
            f'"resourceId":"/SUBSCRIPTIONS/{_SUBSCRIPTION}/RESOURCEGROUPS/ML/PROVIDERS/{path}",'
            f'"operationName":"{operation}","category":"{category}","resultType":"{kind}",'
            f'"resultSignature":"{signature}","durationMs":"{b % 900}","callerIpAddress":"{address}",'
            f'"correlationId":"{row:08x}-0000-4000-8000-{b:012x}","identity":{{"authorization":{{"scope":'
            f'"/subscriptions/{_SUBSCRIPTION}","action":"{operation}","evidence":{{"role":"Contributor",'
            f'"principalType":"User","principalId":"{a:032x}"}}}},"claims":{{"aud":"https://management.core.windows.net/",'
            f'"iss":"https://sts.windows.net/72f988bf/","appid":"04b07795","ipaddr":"{address}","name":"{who}",'
            f'"http://schemas.microsoft.com/identity/claims/objectidentifier":"{a:032x}",'
            f'"http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn":"{who}"}}}},"level":"{level}",'
            f'"properties":{{"statusCode":"OK","serviceRequestId":null,"eventCategory":"{category}",'
            f'"entity":"/subscriptions/{path}","message":"{operation}","hierarchy":"72f988bf/ml"}},'
            f'"tenantId":"72f988bf-0000-4000-8000-2d7cd011db47"}}'
        ).encode()


_K8S_KINDS = [
    ("get", "pods", "", "v1", "prod", 200, "/api/v1/namespaces/prod/pods/trainer-%d", "trainer-%d"),
    ("list", "nodes", "", "v1", "", 200, "/api/v1/nodes?limit=%d", ""),
    ("watch", "configmaps", "", "v1", "ml", 200, "/api/v1/namespaces/ml/configmaps?watch=%d", ""),
    ("create", "jobs", "batch", "v1", "ml", 201, "/apis/batch/v1/namespaces/ml/jobs?n=%d", "train-%d"),
    ("patch", "deployments", "apps", "v1", "prod", 200, "/apis/apps/v1/namespaces/prod/deployments/s%d", "s%d"),
    ("delete", "secrets", "", "v1", "prod", 200, "/api/v1/namespaces/prod/secrets/s%d", "s%d"),
    (
        "create",
        "rolebindings",
        "rbac.authorization.k8s.io",
        "v1",
        "ml",
        201,
        "/apis/rbac.authorization.k8s.io/v1/namespaces/ml/rolebindings?n=%d",
        "b%d",
    ),
    ("get", "secrets", "", "v1", "kube-system", 403, "/api/v1/namespaces/kube-system/secrets/s%d", "s%d"),
]
_STAGES = ("RequestReceived", "ResponseComplete")


def kubernetes(count: int, seed: int = 1) -> Iterator[bytes]:
    """`audit.k8s.io/v1` events: two stages of each request."""
    draw = Draw(seed, count)
    for row in range(count):
        request, stage = divmod(row, 2)
        a, b = draw.low[request % 8191], draw.index[request % 8192]
        verb, kind, group, version, namespace, code, uri, name = _K8S_KINDS[(b + a) % len(_K8S_KINDS)]
        who = f"system:serviceaccount:ml:runner-{a % 50}" if b % 2 else f"person-{a % 200}@example.com"
        target = name % (a % 300) if name else ""
        status = f'"responseStatus":{{"metadata":{{}},"code":{code}}},' if stage else ""
        yield (
            f'{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"{seed:08x}-{request:012x}",'
            f'"stage":"{_STAGES[stage]}","requestURI":"{uri % (a % 300)}","verb":"{verb}",'
            f'"user":{{"username":"{who}","uid":"{a:032x}","groups":["system:authenticated","ml"],'
            f'"extra":{{"authentication.kubernetes.io/credential-id":["JTI={b:x}"]}}}},'
            f'"sourceIPs":["{draw.addresses[(a * 7 + b) % 4000]}"],"userAgent":"kubectl/v1.34.1 (linux/amd64)",'
            f'"objectRef":{{"resource":"{kind}","namespace":"{namespace}","name":"{target}","apiGroup":"{group}",'
            f'"apiVersion":"{version}"}},{status}"requestReceivedTimestamp":"{draw.time(row)}Z",'
            f'"stageTimestamp":"{draw.time(row)}Z","annotations":{{"authorization.k8s.io/decision":'
            f'"{"forbid" if code == 403 else "allow"}","authorization.k8s.io/reason":"RBAC: allowed by binding"}}}}'
        ).encode()


EVENTS: dict[str, Callable[..., Iterator[bytes]]] = {
    "cloud-logging": gcp,
    "azure-monitor": azure,
    "kubernetes": kubernetes,
}
