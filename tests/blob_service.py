"""Blob Storage with version-level immutability on loopback, for the real SDK: Azurite has no such thing.

One container. A request with a parameter, header or order of things the documents do not allow is answered 400. What
is behind it is this file's idea of the documentation.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

ACCOUNT, CONTAINER = "account", "vault"
KEY = "a2V5"


@dataclass
class Version:
    """One version of a blob."""

    version_id: str
    data: bytes
    modified: datetime
    until: datetime | None = None
    mode: str | None = None

    @property
    def is_locked(self) -> bool:
        return self.until is not None and self.until > datetime.now(UTC)

    def headers(self) -> dict[str, str]:
        told = {
            "x-ms-version-id": self.version_id,
            "Last-Modified": format_datetime(self.modified, usegmt=True),
            "ETag": f'"{self.version_id}"',
            "x-ms-blob-type": "BlockBlob",
        }
        if self.until is not None and self.mode is not None:
            told["x-ms-immutability-policy-until-date"] = format_datetime(self.until, usegmt=True)
            told["x-ms-immutability-policy-mode"] = self.mode.lower()
        return told


@dataclass
class Blob:
    """A blob's versions, oldest first; ``current`` is one of them or none."""

    versions: list[Version] = field(default_factory=list)
    current: Version | None = None


class BlobService:
    """See the module. ``immutable``: the container has version-level immutability."""

    def __init__(self, *, immutable: bool = True) -> None:
        self.immutable = immutable
        self.blobs: dict[str, Blob] = {}
        self.page_size = 2
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        url = urlsplit(target)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        parts = url.path.split("/", 3)
        if parts[1:3] != [ACCOUNT, CONTAINER] or "SharedKey" not in (headers.get("Authorization") or ""):
            return _error(403, "AuthenticationFailed")
        with self._lock:
            if len(parts) == 3:
                return self._container(method, query)
            return self._blob(method, unquote(parts[3]), query, headers, body)

    def _container(self, method: str, query: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if method != "GET" or query.pop("restype", None) != "container":
            return _error(400, "UnsupportedQueryParameter")
        if not query:
            told = {"x-ms-immutable-storage-with-versioning-enabled": str(self.immutable).lower()}
            now = format_datetime(datetime.now(UTC), usegmt=True)
            return 200, {**told, "ETag": '"1"', "Last-Modified": now}, b""
        if query.get("comp") != "list" or set(query) - {"comp", "prefix", "include", "marker", "maxresults"}:
            return _error(400, "UnsupportedQueryParameter")
        return 200, {"Content-Type": "application/xml"}, self._listing(query).encode()

    def _listing(self, query: dict[str, str]) -> str:
        include = set(query.get("include", "").split(","))
        rows = [
            (name, version, version is blob.current)
            for name, blob in sorted(self.blobs.items())
            if name.startswith(query.get("prefix", ""))
            for version in blob.versions
            if version is blob.current or "versions" in include
        ]
        start = int(query.get("marker") or 0)
        shown, rest = rows[start : start + self.page_size], rows[start + self.page_size :]
        items = "".join(_item(*row, policies="immutabilitypolicy" in include) for row in shown)
        marker = str(start + self.page_size) if rest else ""
        return (
            f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="{CONTAINER}">'
            f"<Blobs>{items}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
        )

    def _blob(
        self, method: str, name: str, query: dict[str, str], headers: Any, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if method == "PUT" and not query:
            return self._put(name, headers, body)
        blob = self.blobs.get(name, Blob())
        wanted = query.pop("versionid", None)
        version = blob.current if wanted is None else next((v for v in blob.versions if v.version_id == wanted), None)
        if version is None:
            return _error(404, "BlobNotFound")
        if method == "PUT" and query == {"comp": "immutabilityPolicies"}:
            return self._set_policy(version, headers)
        if query:
            return _error(400, "UnsupportedQueryParameter")
        if method == "DELETE":
            return self._delete(blob, version, by_version=wanted is not None)
        told = version.headers()
        if version is blob.current:
            told["x-ms-is-current-version"] = "true"
        return 200, told, version.data

    def _put(self, name: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if headers.get("x-ms-blob-type") != "BlockBlob":
            return _error(400, "InvalidHeaderValue")
        now = datetime.now(UTC).replace(microsecond=0)
        made = Version(f"2026-01-01T00:00:00.{next(self._numbers):07d}Z", body, now)
        blob = self.blobs.setdefault(name, Blob())
        blob.versions.append(made)
        blob.current = made
        return 201, made.headers(), b""

    def _set_policy(self, version: Version, headers: Any) -> tuple[int, dict[str, str], bytes]:
        if not self.immutable:
            return _error(409, "ImmutableStorageWithVersioningNotEnabled")
        try:
            until = parsedate_to_datetime(headers["x-ms-immutability-policy-until-date"])
            mode = {"locked": "Locked", "unlocked": "Unlocked"}[headers["x-ms-immutability-policy-mode"].lower()]
        except (KeyError, TypeError, ValueError):
            return _error(400, "InvalidHeaderValue")
        if until <= datetime.now(UTC):
            return _error(400, "InvalidHeaderValue")
        if version.mode == "Locked" and version.is_locked and (mode != "Locked" or until < version.until):  # type: ignore[operator]
            return _error(409, "BlobImmutableDueToPolicy")
        version.until, version.mode = until, mode
        return 200, version.headers(), b""

    def _delete(self, blob: Blob, version: Version, *, by_version: bool) -> tuple[int, dict[str, str], bytes]:
        if not by_version:
            blob.current = None  # its version stays
        elif version is blob.current:
            return _error(403, "OperationNotAllowedOnRootBlob")
        elif version.is_locked:
            return _error(409, "BlobImmutableDueToPolicy")
        else:
            blob.versions.remove(version)
        return 202, {}, b""


def _item(name: str, version: Version, current: bool, *, policies: bool) -> str:
    told = version.headers()
    policy = ""
    if policies and version.until is not None:
        policy = (
            f"<ImmutabilityPolicyUntilDate>{told['x-ms-immutability-policy-until-date']}</ImmutabilityPolicyUntilDate>"
            f"<ImmutabilityPolicyMode>{told['x-ms-immutability-policy-mode']}</ImmutabilityPolicyMode>"
        )
    return (
        f"<Blob><Name>{escape(name)}</Name><VersionId>{version.version_id}</VersionId>"
        + ("<IsCurrentVersion>true</IsCurrentVersion>" if current else "")
        + f"<Properties><Last-Modified>{told['Last-Modified']}</Last-Modified><Etag>{version.version_id}</Etag>"
        f"<Content-Length>{len(version.data)}</Content-Length><BlobType>BlockBlob</BlobType>{policy}</Properties></Blob>"
    )


def _error(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>by the stub</Message></Error>'
    return status, {"x-ms-error-code": code, "Content-Type": "application/xml"}, body.encode()


@contextmanager
def serving(service: BlobService) -> Iterator[str]:
    """On a free port of loopback; the account's URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = service.answer(self.command, self.path, self.headers, sent)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_DELETE = do_HEAD = _any

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{ACCOUNT}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
