"""What must exist in a part once it serves: the site's bucket, the zone.

Spoken by hand over HTTP rather than through three cloud SDKs: the keeper does it, and the keeper must stay small.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
from email.utils import formatdate

from holdfast.sandbox.azurite import ACCOUNT, KEY
from holdfast.sandbox.errors import PartFailed
from holdfast.sandbox.ports import HOST

_AZURE_VERSION = "2021-12-02"


def provision(port: int, wanted: dict[str, str], *, timeout_seconds: float = 5.0) -> None:
    """Create what ``wanted`` names unless it is there.

    Raises:
        PartFailed: the part refused.
        OSError: the part did not answer.
    """
    _ask(port, *_request(wanted), timeout_seconds)
    if wanted["kind"] == "cloud-dns":
        for host in wanted["hosts"].split():
            _ask(port, *_host(wanted, host), timeout_seconds)


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


def _request(wanted: dict[str, str]) -> tuple[str, str, bytes, dict[str, str]]:
    kind = wanted["kind"]
    if kind == "aws":
        return "PUT", f"/{wanted['bucket']}", *_s3(wanted["region"])
    if kind == "azure":
        path = f"/{ACCOUNT}/{wanted['bucket']}?restype=container"
        return "PUT", path, b"", _azure_headers(wanted["bucket"])
    if kind == "gcp":
        body = json.dumps({"name": wanted["bucket"], "location": wanted["region"]}).encode()
        return "POST", f"/storage/v1/b?project={wanted['project']}", body, {"Content-Type": "application/json"}
    body = json.dumps({"name": wanted["zone"], "dnsName": wanted["dns_name"], "description": "The sandbox"}).encode()
    return "POST", f"/dns/v1/projects/{wanted['project']}/managedZones", body, {"Content-Type": "application/json"}


def _host(wanted: dict[str, str], host: str) -> tuple[str, str, bytes, dict[str, str]]:
    """The address of a site's host name, which SRV records lead to."""
    record = {"name": f"{host}.{wanted['dns_name']}", "type": "A", "ttl": 60, "rrdatas": [HOST]}
    path = f"/dns/v1/projects/{wanted['project']}/managedZones/{wanted['zone']}/changes"
    return "POST", path, json.dumps({"additions": [record]}).encode(), {"Content-Type": "application/json"}


def _s3(region: str) -> tuple[bytes, dict[str, str]]:
    """moto checks no signature, but it reads the region out of one."""
    headers = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential=sandbox/20260101/{region}/s3/aws4_request, "
        "SignedHeaders=host, Signature=0"
    }
    if region == "us-east-1":
        return b"", headers
    return (
        f"<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
    ).encode(), headers


def _azure_headers(container: str) -> dict[str, str]:
    """Shared Key, as https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key has it."""
    date = formatdate(usegmt=True)
    # An emulator's path starts with the account, and the canonical resource names the account again.
    text = (
        f"PUT{chr(10) * 12}x-ms-date:{date}\nx-ms-version:{_AZURE_VERSION}\n"
        f"/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container"
    )
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    return {"x-ms-date": date, "x-ms-version": _AZURE_VERSION, "Authorization": f"SharedKey {ACCOUNT}:{signature}"}
