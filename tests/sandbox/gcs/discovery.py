"""Holding traffic against Google's own description of the JSON API.

The document is the one `google-api-python-client` bundles (storage v1). `Recorder` is put around the server's
application and sees every request and every response, those inside batches too.
"""

from __future__ import annotations

import email.parser
import email.policy
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import googleapiclient
import jsonschema
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Part of the opaque session URI of a resumable upload, which no client makes itself.
SESSION_PARAMETERS = {"upload_id"}
_FORMATS: dict[str, dict[str, Any]] = {
    "int64": {"type": "string", "pattern": r"^-?\d+$"},
    "uint64": {"type": "string", "pattern": r"^\d+$"},
    "int32": {"type": "integer"},
    "date-time": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"},
}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "errors"],
            "additionalProperties": False,
            "properties": {
                "code": {"type": "integer"},
                "message": {"type": "string", "minLength": 1},
                "errors": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["message", "domain", "reason"],
                        "additionalProperties": False,
                        "properties": {
                            name: {"type": "string"}
                            for name in ("message", "domain", "reason", "locationType", "location")
                        },
                    },
                },
            },
        }
    },
}


@cache
def document() -> dict[str, Any]:
    path = Path(next(iter(googleapiclient.__path__))) / "discovery_cache" / "documents" / "storage.v1.json"
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


@cache
def methods() -> dict[str, dict[str, Any]]:
    """Every method by its id, without the leading ``storage.``."""
    found: dict[str, dict[str, Any]] = {}

    def walk(node: dict[str, Any]) -> None:
        for method in node.get("methods", {}).values():
            found[method["id"].removeprefix("storage.")] = method
        for below in node.get("resources", {}).values():
            walk(below)

    walk(document())
    return found


def query_parameters(method: dict[str, Any]) -> set[str]:
    own = {name for name, spec in method.get("parameters", {}).items() if spec["location"] == "query"}
    return own | set(document()["parameters"])


@cache
def schema(name: str, *, request: bool = False) -> dict[str, Any]:
    """A resource as JSON Schema in which a field the document does not have is an error.

    In a request a 64-bit number may come as a number, which Google's own client does in a compose.
    """
    return _strict(document()["schemas"][name], request)


def _strict(node: dict[str, Any], request: bool) -> dict[str, Any]:
    if "$ref" in node:
        return schema(node["$ref"], request=request)
    if node.get("format") in ("int64", "uint64") and request:
        return {"anyOf": [{"type": "integer"}, _FORMATS[node["format"]]]}
    if node.get("format") in _FORMATS:
        return _FORMATS[node["format"]]
    kind = node.get("type")
    if kind == "object":
        more = node.get("additionalProperties")
        return {
            "type": "object",
            "properties": {name: _strict(below, request) for name, below in node.get("properties", {}).items()},
            "additionalProperties": _strict(more, request) if more else False,
        }
    if kind == "array":
        return {"type": "array", "items": _strict(node["items"], request)}
    return {"type": kind} if kind and kind != "any" else {}


def find(verb: str, path: str) -> tuple[str, dict[str, Any]] | None:
    """The method a raw path belongs to, by the document's own templates."""
    base = re.match(r"/(?:(?:resumable/)?upload/|download/)?storage/v1/", path)
    if base is None:
        return None
    for name, method in methods().items():
        template = re.sub(r"\{\w+\}", "[^/]+", re.escape(method["path"]).replace(r"\{", "{").replace(r"\}", "}"))
        if method["httpMethod"] != verb or not re.fullmatch(template, path[base.end() :]):
            continue
        if "upload/" in base[0] and not method.get("supportsMediaUpload"):
            continue
        if base[0].startswith("/download") and not method.get("useMediaDownloadService"):
            continue
        return name, method
    return None


class Exchange:
    """A request and its response."""

    def __init__(self, verb: str, path: str, query: str, headers: dict[str, str], body: bytes) -> None:
        self.verb, self.path, self.headers, self.body = verb, path, headers, body
        self.query = parse_qs(query, keep_blank_values=True)
        self.status = 0
        self.response_headers: dict[str, str] = {}
        self.response_body = b""

    def method(self) -> tuple[str, dict[str, Any]] | None:
        session = self.query.keys() & SESSION_PARAMETERS
        return find("POST" if session else self.verb, self.path)

    def problems(self) -> list[str]:
        """What the document does not allow."""
        label = f"{self.verb} {self.path} -> {self.status}: "
        if self.status == 501:
            return [] if _is_error(self.response_body, 501, self.response_headers) else [label + "no error resource"]
        found = self.method()
        if found is None:
            return [] if self.status >= 400 else [label + "no such method in the discovery document"]
        return [label + problem for problem in (*self._request_problems(found[1]), *self._response_problems(found[1]))]

    def _request_problems(self, method: dict[str, Any]) -> list[str]:
        if self.status >= 400:
            return []
        unknown = self.query.keys() - query_parameters(method) - SESSION_PARAMETERS
        problems = [f"parameter {name} was accepted" for name in sorted(unknown)]
        resource = self._request_resource()
        if resource is not None and "request" in method:
            against = schema(method["request"]["$ref"], request=True)
            problems += _invalid(_without_nulls(resource), against, "accepted request")
        return problems

    def _request_resource(self) -> Any:
        content_type = self.headers.get("content-type", "")
        if self.query.keys() & SESSION_PARAMETERS or not self.body:
            return None
        if content_type.startswith("multipart/related"):
            return json.loads(_parts(content_type, self.body)[0].get_content())
        if content_type.startswith("application/json") and self.query.get("uploadType") != ["media"]:
            return json.loads(self.body)
        return None

    def _response_problems(self, method: dict[str, Any]) -> list[str]:
        media = self.query.get("alt") == ["media"]
        if self.status >= 400 and not media and self.status != 499:
            good = _is_error(self.response_body, self.status, self.response_headers)
            return [] if good else [f"no error resource: {self.response_body[:200]!r}"]
        if self.status >= 300 or media or self.status == 204 or not self.response_body:
            return []
        if "response" not in method:
            return [f"a body where the document has none: {self.response_body[:200]!r}"]
        return _invalid(json.loads(self.response_body), schema(method["response"]["$ref"]), "response")


def batch_exchanges(outer: Exchange) -> list[Exchange]:
    """The exchanges inside a batch."""
    requests = _parts(outer.headers["content-type"], outer.body)
    responses = _parts(outer.response_headers["content-type"], outer.response_body)
    found = []
    for request, response in zip(requests, responses, strict=True):
        line, headers, body = _http(request.get_payload(decode=True))
        verb, target, _ = line.split(" ", 2)
        path, _, query = re.sub(r"^https?://[^/]+", "", target).partition("?")
        inner = Exchange(verb, path, query, headers, body)
        line, inner.response_headers, inner.response_body = _http(response.get_payload(decode=True))
        inner.status = int(line.split(" ")[1])
        found.append(inner)
    return found


class Recorder:
    """An ASGI application around another that checks what passes; ``GET /_recorder`` tells, ``DELETE`` forgets."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.seen: Counter[str] = Counter()
        self.problems: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == "/_recorder":
            await self._report(scope["method"], send)
        else:
            await self._record(scope, receive, send)

    async def _record(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["raw_path"].decode().split("?")[0]
        exchange = Exchange(scope["method"], path, scope["query_string"].decode(), headers, b"")
        # Content is of no interest, and there may be much of it.
        keep = headers.get("content-type", "").startswith(("application/json", "multipart/"))

        async def noting_receive() -> Message:
            message = await receive()
            if keep and message["type"] == "http.request":
                exchange.body += message.get("body", b"")
            return message

        async def noting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                exchange.response_headers = {
                    name.decode(): value.decode("latin-1") for name, value in message["headers"]
                }
            elif exchange.response_headers.get("content-type", "").startswith(("application/json", "multipart/mixed")):
                exchange.response_body += message.get("body", b"")
            await send(message)

        await self._app(scope, noting_receive, noting_send)
        if path.startswith("/_holdfast/"):
            return
        if path.startswith(("/storage/", "/upload/", "/download/", "/resumable/")):
            self._check(exchange)
        elif path.startswith("/batch/") and exchange.status == 200:
            for inner in batch_exchanges(exchange):
                self._check(inner)
        elif exchange.status == 500:
            self.problems.append(f"{exchange.verb} {exchange.path} -> 500")

    def _check(self, exchange: Exchange) -> None:
        found = exchange.method()
        if found is not None and exchange.status < 400:
            self.seen[found[0]] += 1
        if exchange.status == 500:
            self.problems.append(f"{exchange.verb} {exchange.path} -> 500")
        try:
            self.problems += exchange.problems()
        except Exception as error:
            self.problems.append(f"{exchange.verb} {exchange.path}: cannot be checked: {error!r}")

    async def _report(self, verb: str, send: Send) -> None:
        body = json.dumps({"seen": self.seen, "problems": self.problems}).encode()
        if verb == "DELETE":
            self.problems = []
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _invalid(value: Any, against: dict[str, Any], what: str) -> list[str]:
    validator = jsonschema.Draft202012Validator(against)
    return [f"{what}: {error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def _without_nulls(value: Any) -> Any:
    """A null in a patch removes a field; it is of no type."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _is_error(body: bytes, status: int, headers: dict[str, str]) -> bool:
    if not headers.get("content-type", "").startswith("application/json"):
        # A HEAD and a media request have no JSON.
        return True
    value = json.loads(body)
    return not _invalid(value, _ERROR_SCHEMA, "error") and value["error"]["code"] == status


def _parts(content_type: str, body: bytes) -> list[Any]:
    raw = b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
    return list(email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(raw).iter_parts())


def _http(payload: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = payload.lstrip().replace(b"\r\n", b"\n").partition(b"\n\n")
    line, *header_lines = head.decode().split("\n")
    headers = dict(re.split(r":\s*", header, maxsplit=1) for header in header_lines if ":" in header)
    return line, {name.lower(): value for name, value in headers.items()}, body.strip()
