"""A proxy on loopback that lets through what a policy document allows, and records what each request needed.

No emulator here evaluates permissions: moto's own check knows neither resources nor conditions nor explicit denials of
S3. So each request is mapped to the permissions its cloud documents for it, and a policy is evaluated with deny by
default. The mapping is this project's reading of the documentation; what a cloud really asks was never tried.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Need:
    """One permission a request asks for, e.g. ``s3:GetObject`` on an ARN."""

    action: str
    resource: str


@dataclass(frozen=True)
class Refusal:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Rules(Protocol):
    """What a cloud asks for. ``needs`` raises for a request that it does not know: none passes unseen."""

    def needs(self, request: Request) -> list[Need]: ...

    def allows(self, need: Need) -> bool: ...

    def refusal(self, request: Request, need: Need) -> Refusal: ...

    def hides_absence(self, request: Request) -> Need | None:
        """What tells a missing object from a forbidden one, where a cloud makes a difference."""

    def shows_lock(self, request: Request) -> Need | None:
        """Without what an answer leaves an object's lock out, where a cloud does so."""


@dataclass
class Gate:
    """The proxy's memory.

    Args:
        rules: change them at will.
        used: every permission that was needed and given.
        refused: every one that was not, with the request's method.
    """

    rules: Rules
    used: set[str] = field(default_factory=set)
    refused: list[tuple[str, Need]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    #: Requests that changed something and went through.
    writes: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def enforcing(upstream: str, rules: Rules) -> Iterator[Gate]:
    """The proxy before ``upstream``."""
    gate, target = Gate(rules), urlsplit(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _any(self) -> None:
            body = _read_body(self)
            url = urlsplit(self.path)
            query = dict(parse_qsl(url.query, keep_blank_values=True))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, unquote(url.path), query, headers, body)
            try:
                needs = gate.rules.needs(request)
            except LookupError as error:
                gate.unknown.append(f"{self.command} {self.path}: {error}")
                self._send(501, {}, b"")
                return
            for need in needs:
                if not gate.rules.allows(need):
                    gate.refused.append((self.command, need))
                    found = gate.rules.refusal(request, need)
                    self._send(found.status, found.headers, found.body)
                    return
            gate.used |= {need.action for need in needs}
            self._forward(request, body)

        def _forward(self, request: Request, body: bytes) -> None:
            upstream_connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            try:
                dropped = ("connection", "content-length", "expect", "transfer-encoding")
                headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
                if body or "content-length" in request.headers or request.method in ("PUT", "POST"):
                    headers["Content-Length"] = str(len(body))
                upstream_connection.putrequest(
                    self.command, self.path, skip_host="host" in request.headers, skip_accept_encoding=True
                )
                for name, value in headers.items():
                    upstream_connection.putheader(name, value)
                upstream_connection.endheaders(body or None)
                answer = upstream_connection.getresponse()
                content = answer.read()
                hidden = gate.rules.hides_absence(request) if answer.status == 404 else None
                if hidden is not None:
                    if not gate.rules.allows(hidden):
                        gate.refused.append((self.command, hidden))
                        found = gate.rules.refusal(request, hidden)
                        self._send(found.status, found.headers, found.body)
                        return
                    gate.used.add(hidden.action)
                if request.method not in ("GET", "HEAD") and answer.status < 300:
                    gate.writes.append(f"{request.method} {self.path}")
                self._send(answer.status, self._shown(request, dict(answer.getheaders())), content)
            finally:
                upstream_connection.close()

        def _shown(self, request: Request, headers: dict[str, str]) -> dict[str, str]:
            locks = {name for name in headers if name.lower().startswith("x-amz-object-lock-")}
            need = gate.rules.shows_lock(request) if locks else None
            if need is None:
                return headers
            if gate.rules.allows(need):
                gate.used.add(need.action)
                return headers
            if request.method == "HEAD":  # who reads an object's bytes does not ask for its lock
                gate.refused.append((self.command, need))
            return {name: value for name, value in headers.items() if name not in locks}

        def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response_only(status)
            skipped = ("connection", "transfer-encoding", "content-length")
            for name, value in headers.items():
                if name.lower() not in skipped:
                    self.send_header(name, value)
            told = {name.lower(): value for name, value in headers.items()}.get("content-length")
            length = told if self.command == "HEAD" and told else str(len(body))
            if status not in (204, 304):
                self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = _any

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    gate.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield gate
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _read_body(handler: BaseHTTPRequestHandler) -> bytes:
    if "chunked" not in (handler.headers.get("Transfer-Encoding") or ""):
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    pieces = []
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        pieces.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(pieces)


# --- AWS -------------------------------------------------------------------------------------------------------------

_BUCKET_GETS = {
    "versions": "s3:ListBucketVersions",
    "uploads": "s3:ListBucketMultipartUploads",
    "object-lock": "s3:GetBucketObjectLockConfiguration",
    "encryption": "s3:GetEncryptionConfiguration",
    "versioning": "s3:GetBucketVersioning",
    "acl": "s3:GetBucketAcl",
    "policy": "s3:GetBucketPolicy",
    "policyStatus": "s3:GetBucketPolicyStatus",
    "publicAccessBlock": "s3:GetBucketPublicAccessBlock",
}
_BUCKET_PUTS = {
    "object-lock": "s3:PutBucketObjectLockConfiguration",
    "lifecycle": "s3:PutLifecycleConfiguration",
    "policy": "s3:PutBucketPolicy",
    "versioning": "s3:PutBucketVersioning",
}
_OBJECT_GETS = {
    "tagging": "s3:GetObjectTagging",
    "retention": "s3:GetObjectRetention",
    "uploadId": "s3:ListMultipartUploadParts",
}


class Iam:
    """An IAM policy document before S3 and the JSON and query services.

    Args:
        document: with real ARNs in it.
        without: an action that is taken out of it.
    """

    def __init__(self, document: Mapping[str, Any], *, without: str | None = None) -> None:
        self._document, self._without = document, without

    def needs(self, request: Request) -> list[Need]:
        target = request.headers.get("x-amz-target")
        if target is not None:
            named = json.loads(request.body or b"{}").get("KeyId")
            return [Need(_target_action(target), named if named and named.startswith("arn:") else "*")]
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return self._query_service(request)
        bucket, _, key = request.path.lstrip("/").partition("/")
        return self._of_object(request, bucket, key) if key else self._of_bucket(request, bucket)

    def _query_service(self, request: Request) -> list[Need]:
        form = dict(parse_qsl(request.body.decode()))
        if form["Action"] == "GetCallerIdentity":
            return []  # AWS asks no permission for it
        service = "sts" if form["Version"] == "2011-06-15" else "iam"
        return [Need(f"{service}:{form['Action']}", "*")]

    def _of_bucket(self, request: Request, bucket: str) -> list[Need]:
        arn, query = f"arn:aws:s3:::{bucket}", request.query
        if request.method == "POST" and "delete" in query:
            return [Need("s3:DeleteObject", f"{arn}/*")]
        known = {"GET": _BUCKET_GETS, "HEAD": {}, "PUT": _BUCKET_PUTS}[request.method]
        named = next((action for name, action in known.items() if name in query), None)
        if named is None and request.method == "PUT":
            raise LookupError("a change of a bucket this file does not know")
        return [Need(named or "s3:ListBucket", arn)]

    def _of_object(self, request: Request, bucket: str, key: str) -> list[Need]:
        arn, query, headers = f"arn:aws:s3:::{bucket}/{key}", request.query, request.headers
        if request.method in ("GET", "HEAD"):
            named = next((action for name, action in _OBJECT_GETS.items() if name in query), None)
            read = "s3:GetObjectVersion" if "versionId" in query else "s3:GetObject"
            return [Need(named or read, arn)]
        if request.method == "DELETE":
            if "uploadId" in query:
                return [Need("s3:AbortMultipartUpload", arn)]
            return [Need("s3:DeleteObjectVersion" if "versionId" in query else "s3:DeleteObject", arn)]
        if "retention" in query:
            bypass = headers.get("x-amz-bypass-governance-retention", "").lower() == "true"
            needs = [Need("s3:PutObjectRetention", arn)]
            return [*needs, Need("s3:BypassGovernanceRetention", arn)] if bypass else needs
        if "legal-hold" in query:
            return [Need("s3:PutObjectLegalHold", arn)]
        needs = [Need("s3:PutObject", arn)]
        if source := headers.get("x-amz-copy-source"):
            path, _, version = unquote(source).lstrip("/").partition("?versionId=")
            action = "s3:GetObjectVersion" if version else "s3:GetObject"
            needs.append(Need(action, f"arn:aws:s3:::{path}"))
        if "x-amz-tagging" in headers:
            needs.append(Need("s3:PutObjectTagging", arn))
        if "x-amz-object-lock-mode" in headers:
            needs.append(Need("s3:PutObjectRetention", arn))
        return needs

    def allows(self, need: Need) -> bool:
        """An explicit Deny counts before any Allow."""
        allowed = False
        for statement in self._document["Statement"]:
            assert "Condition" not in statement, "conditions are not evaluated here"
            actions = set(_listed(statement["Action"]))
            if statement["Effect"] == "Allow":
                actions -= {self._without}
            named = any(fnmatchcase(need.action.lower(), one.lower()) for one in actions)
            there = any(fnmatchcase(need.resource, one) for one in _listed(statement["Resource"]))
            if named and there:
                if statement["Effect"] == "Deny":
                    return False
                allowed = True
        return allowed

    def refusal(self, request: Request, need: Need) -> Refusal:
        said = (
            f"User: arn:aws:sts::123456789012:assumed-role/holdfast/s is not authorized to perform: {need.action} on "
            f"resource: {need.resource} because no identity-based policy allows the {need.action} action"
        )
        if "x-amz-target" in request.headers:
            document = json.dumps({"__type": "AccessDeniedException", "message": said})
            return Refusal(400, {"Content-Type": "application/x-amz-json-1.1"}, document.encode())
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            error = f"<Error><Type>Sender</Type><Code>AccessDenied</Code><Message>{said}</Message></Error>"
            return Refusal(403, {"Content-Type": "text/xml"}, f"<ErrorResponse>{error}</ErrorResponse>".encode())
        text = f'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>{said}</Message></Error>'
        return Refusal(403, {"Content-Type": "application/xml"}, text.encode())

    def hides_absence(self, request: Request) -> Need | None:
        """S3 tells 404 from 403 only to who may list the bucket."""
        bucket, _, key = request.path.lstrip("/").partition("/")
        if request.method in ("GET", "HEAD") and key and not set(request.query) & {"uploadId", "versionId"}:
            return Need("s3:ListBucket", f"arn:aws:s3:::{bucket}")
        return None

    def shows_lock(self, request: Request) -> Need | None:
        """GET and HEAD of an object tell its lock only to who may read that."""
        bucket, _, key = request.path.lstrip("/").partition("/")
        return Need("s3:GetObjectRetention", f"arn:aws:s3:::{bucket}/{key}")


def _target_action(target: str) -> str:
    service, _, operation = target.rpartition(".")
    if service == "TrentService":
        return f"kms:{operation}"
    if "CloudTrail" in service:
        return f"cloudtrail:{operation}"
    raise LookupError(target)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def allowed_actions(document: Mapping[str, Any]) -> list[str]:
    """What a policy document allows, each once."""
    found = {action for one in document["Statement"] if one["Effect"] == "Allow" for action in _listed(one["Action"])}
    return sorted(found)
