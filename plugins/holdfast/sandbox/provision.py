"""What must exist in a part once it serves: the site's bucket, those of its trail, the zone.

Spoken by hand over HTTP rather than through three cloud SDKs: the keeper does it, and the keeper must stay small.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import urlencode

from holdfast.sandbox.azurite import ACCOUNT, KEY
from holdfast.sandbox.errors import PartFailed
from holdfast.sandbox.ports import HOST

_AZURE_VERSION = "2021-12-02"
_JSON = {"Content-Type": "application/json"}
_SIGNED_HEADERS = (
    *("content-encoding", "content-language", "content-length", "content-md5", "content-type", "date"),
    *("if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"),
)


def provision(port: int, wanted: dict[str, str], *, timeout_seconds: float = 5.0) -> None:
    """Create what ``wanted`` names unless it is there.

    Raises:
        PartFailed: the part refused.
        OSError: the part did not answer.
    """
    for request in _requests(wanted):
        _ask(port, *request, timeout_seconds)


def _ask(port: int, method: str, path: str, body: bytes, headers: dict[str, str], timeout_seconds: float) -> None:
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_seconds)
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        answer = response.read()
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP answer: {error}") from error
    finally:
        connection.close()
    if response.status not in (200, 201, 409):  # 409: it is there
        raise PartFailed(
            "what the part must hold could not be created",
            where=f"{method} http://{HOST}:{port}{path}",
            expected="200, 201 or 409",
            found=f"{response.status} {answer[:300]!r}",
        )


def _requests(wanted: dict[str, str]) -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    kind = wanted["kind"]
    if kind == "cloud-dns":
        body = json.dumps({"name": wanted["zone"], "dnsName": wanted["dns_name"], "description": "The sandbox"})
        yield "POST", f"/dns/v1/projects/{wanted['project']}/managedZones", body.encode(), _JSON
        for host in wanted["hosts"].split():
            yield _host(wanted, host)
        return
    for bucket in (wanted["bucket"], *wanted.get("trails", "").split()):
        if kind == "aws":
            yield "PUT", f"/{bucket}", *_s3_bucket(wanted["region"])
        elif kind == "azure":
            query = {"restype": "container"}
            signed = azure_headers("PUT", f"/{bucket}", query, {}, 0)
            yield "PUT", f"{signed.path}?{urlencode(query)}", b"", signed.headers
        else:
            body = json.dumps({"name": bucket, "location": wanted["region"]})
            yield "POST", f"/storage/v1/b?project={wanted['project']}", body.encode(), _JSON


def _host(wanted: dict[str, str], host: str) -> tuple[str, str, bytes, dict[str, str]]:
    """The address of a site's host name, which SRV records lead to."""
    record = {"name": f"{host}.{wanted['dns_name']}", "type": "A", "ttl": 60, "rrdatas": [HOST]}
    path = f"/dns/v1/projects/{wanted['project']}/managedZones/{wanted['zone']}/changes"
    return "POST", path, json.dumps({"additions": [record]}).encode(), _JSON


def _s3_bucket(region: str) -> tuple[bytes, dict[str, str]]:
    if region == "us-east-1":
        return b"", s3_headers(region)
    return (
        f"<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
    ).encode(), s3_headers(region)


def s3_headers(region: str) -> dict[str, str]:
    """moto checks no signature, but it reads the region out of one."""
    return {
        "Authorization": f"AWS4-HMAC-SHA256 Credential=sandbox/20260101/{region}/s3/aws4_request, "
        "SignedHeaders=host, Signature=0"
    }


@dataclass(frozen=True)
class AzureRequest:
    """A signed request: its path as it is sent, and its headers."""

    path: str
    headers: dict[str, str]


def azure_headers(
    method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], size_bytes: int
) -> AzureRequest:
    """Shared Key, as https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key has it.

    Args:
        path: below the account, percent-encoded, e.g. ``/container/blob``.
        headers: to be sent and signed.
        size_bytes: of the body.
    """
    sent = {**headers, "x-ms-date": formatdate(usegmt=True), "x-ms-version": _AZURE_VERSION}
    lower = {name.lower(): value for name, value in sent.items()}
    plain = [lower.get(name, "") for name in _SIGNED_HEADERS]
    plain[2] = str(size_bytes) if size_bytes else ""
    own = [f"{name}:{value}" for name, value in sorted(lower.items()) if name.startswith("x-ms-")]
    # An emulator's path starts with the account, and the canonical resource names the account again.
    resource = f"/{ACCOUNT}/{ACCOUNT}{path}"
    parameters = [f"{name}:{value}" for name, value in sorted(query.items())]
    text = "\n".join([method, *plain, *own, resource, *parameters])
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    return AzureRequest(f"/{ACCOUNT}{path}", {**sent, "Authorization": f"SharedKey {ACCOUNT}:{signature}"})
