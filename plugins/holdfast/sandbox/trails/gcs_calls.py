"""Which method of Cloud Storage or Cloud DNS a request is, by the names their audit logs use.

https://cloud.google.com/storage/docs/audit-logging
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from holdfast.sandbox.gcs import methods
from holdfast.sandbox.gcs.errors import GcsError
from holdfast.sandbox.trails.exchanges import Exchange

_ROOTS = (("upload", "storage", "v1"), ("resumable", "upload", "storage", "v1"), ("download", "storage", "v1"))
_JSON = ("storage", "v1")
#: The API's method → the audit log's. Copies read and write, and are two entries.
_NAMES = {
    "buckets.insert": "storage.buckets.create",
    "buckets.patch": "storage.buckets.update",
    "buckets.lockRetentionPolicy": "storage.buckets.update",
    "objects.insert": "storage.objects.create",
    "objects.patch": "storage.objects.update",
}
_COPIES = frozenset(("objects.copy", "objects.rewrite"))
_XML_OBJECT = {"GET": "get", "HEAD": "get", "PUT": "create", "DELETE": "delete"}
_XML_BUCKET = {
    "GET": "storage.objects.list",
    "HEAD": "storage.buckets.get",
    "PUT": "storage.buckets.create",
    "DELETE": "storage.buckets.delete",
}
_ADMIN = frozenset(("storage.buckets.create", "storage.buckets.update", "storage.buckets.delete"))
_DNS = re.compile(r"/dns/v1/projects/([^/]+)/managedZones(?:/([^/]+))?(?:/(changes|rrsets))?(?:/(.+))?")
_DNS_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_DNS_WHAT = {None: "managedZones", "changes": "changes", "rrsets": "resourceRecordSets"}


@dataclass(frozen=True, slots=True)
class GcpCall:
    """One method and what it is about.

    Args:
        method: e.g. ``storage.objects.create``.
        bucket: or the zone, of Cloud DNS.
        name: of the object.
        is_admin: an entry of Admin Activity, else of Data Access.
    """

    method: str
    bucket: str | None
    name: str | None
    is_admin: bool


def gcp_calls(exchange: Exchange) -> Iterator[GcpCall]:
    """The methods of one request: two for a copy, none for a part of an upload that goes on."""
    if exchange.listener == "dns":
        yield from _dns(exchange)
        return
    segments = exchange.segments
    # Names may hold slashes as %2F, so a path is cut before it is decoded.
    raw = exchange.path.removeprefix("/").split("/")
    root = next((one for one in (*_ROOTS, _JSON) if tuple(raw[: len(one)]) == one), None)
    if root is None:
        yield from _xml(exchange, segments)
        return
    rest = raw[len(root) :]
    if root == _ROOTS[0] or root == _ROOTS[1]:
        yield from _upload(exchange, rest)
        return
    found = _found(exchange.method, rest)
    if found is None:
        yield GcpCall("storage.unknown", None, None, False)
        return
    method, variables = found
    source = (variables.get("sourceBucket"), variables.get("sourceObject"))
    if method.id in _COPIES:
        yield GcpCall("storage.objects.get", *source, False)
        yield GcpCall("storage.objects.create", variables["destinationBucket"], variables["destinationObject"], False)
        return
    bucket = variables.get("bucket") or variables.get("destinationBucket") or exchange.named.get("bucket")
    name = variables.get("object") or variables.get("destinationObject")
    audited = _NAMES.get(method.id, f"storage.{method.id}")
    yield GcpCall(audited, bucket, name, audited in _ADMIN)


def _found(verb: str, segments: list[str]) -> tuple[methods.Method, dict[str, str]] | None:
    try:
        return methods.find(verb, segments)
    except GcsError:  # a name that is no UTF-8, which the server refused too
        return None


def _upload(exchange: Exchange, rest: list[str]) -> Iterator[GcpCall]:
    """An object is created once its last byte is there: the start of a session and its parts are no entries."""
    query = exchange.query
    if "upload_id" in query and (exchange.status == 308 or exchange.method == "DELETE"):
        return
    if query.get("uploadType") == "resumable" and "upload_id" not in query and not exchange.failed:
        return
    variables = _found("POST", rest)
    bucket = (variables[1].get("bucket") if variables else None) or exchange.named.get("bucket")
    yield GcpCall("storage.objects.create", bucket, query.get("name") or exchange.named.get("name"), False)


def _xml(exchange: Exchange, segments: list[str]) -> Iterator[GcpCall]:
    bucket, name = segments[0], "/".join(segments[1:])
    if not name:
        method = _XML_BUCKET.get(exchange.method, "storage.unknown")
        yield GcpCall(method, bucket or None, None, method in _ADMIN)
        return
    source = exchange.headers.get("x-goog-copy-source") or exchange.headers.get("x-amz-copy-source")
    if source and exchange.method == "PUT":
        source_bucket, _, source_name = unquote(source).removeprefix("/").partition("/")
        yield GcpCall("storage.objects.get", source_bucket, source_name, False)
    if exchange.method == "POST":
        yield GcpCall("storage.multipartUploads.create", bucket, name, False)
    else:
        yield GcpCall(f"storage.objects.{_XML_OBJECT.get(exchange.method, 'unknown')}", bucket, name, False)


def _dns(exchange: Exchange) -> Iterator[GcpCall]:
    found = _DNS.fullmatch(exchange.path)
    if found is None:
        yield GcpCall("dns.unknown", None, None, False)
        return
    _, zone, what, item = found.groups()
    verb = _DNS_VERBS.get(exchange.method, "unknown")
    if verb == "get" and not (item if what else zone):
        verb = "list"
    yield GcpCall(f"dns.{_DNS_WHAT[what]}.{verb}", zone, None, verb not in ("get", "list"))
