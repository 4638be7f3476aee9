"""The server's ASGI application: which request goes to which API, and how refusals are written."""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast.sandbox.gcs import batch, json_api, methods, resumable, xml_api
from holdfast.sandbox.gcs.context import Context
from holdfast.sandbox.gcs.errors import GcsError, not_implemented, unauthorized
from holdfast.sandbox.gcs.names import decoded
from holdfast.sandbox.gcs.storage import Storage

_log = logging.getLogger(__name__)
_JSON_ROOTS: tuple[tuple[str, ...], ...] = (("storage", "v1"), ("download", "storage", "v1"))
_UPLOAD_ROOTS: tuple[tuple[str, ...], ...] = (("upload", "storage", "v1"), ("resumable", "upload", "storage", "v1"))


def make_app(storage: Storage, *, default_project: str | None = None, token: str | None = None) -> Starlette:
    """The application.

    Args:
        storage: its state; closed when the server shuts down.
        default_project: for requests that name no project; None to insist on one, as Google does.
        token: the only bearer token that is let in; None lets everybody in.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        storage.close()

    async def ready(_: Request) -> Response:
        return PlainTextResponse("ready\n")

    server = _Server(storage, default_project, token)
    return Starlette(
        routes=[Route("/_holdfast/ready", ready), Mount("/", app=server.asgi)],
        lifespan=lifespan,
    )


class _Server:
    def __init__(self, storage: Storage, default_project: str | None, token: str | None) -> None:
        self._storage = storage
        self._default_project = default_project
        self._token = token
        self.asgi: ASGIApp = self._call

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served here, not {scope['type']}")
        response = await self.respond(Request(scope, receive))
        await response(scope, receive, send)

    async def respond(self, request: Request) -> Response:
        """Answer one request, refusals included."""
        # The raw path, because %2F inside an object's name is not a separator.
        segments = request.scope["raw_path"].decode("ascii").split("?")[0].removeprefix("/").split("/")
        is_json = segments[0] in ("storage", "upload", "download", "resumable", "batch", "_holdfast")
        try:
            self._authorise(request, segments)
            return await (self._json(request, segments) if is_json else self._xml(request, segments))
        except GcsError as error:
            return _refusal(error, request, is_json=is_json)
        except ClientDisconnect:
            # Nobody reads this answer any more.
            return Response(status_code=499)
        except Exception as error:
            # A full disk, or a mistake in here: in the API's own form, so that clients treat it as what it is.
            _log.exception("cannot answer %s %s", request.method, request.url.path)
            message = f"The storage server failed: {type(error).__name__}: {error}"
            refusal = GcsError(500, "backendError", message, xml_code="InternalError")
            return _refusal(refusal, request, is_json=is_json)

    def _authorise(self, request: Request, segments: list[str]) -> None:
        # A session URI is a capability: who has it may go on with the upload.
        session = segments[0] in ("upload", "resumable") and "upload_id" in request.query_params
        if self._token is None or session:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token.encode()):
            raise unauthorized()

    def _context(self, request: Request, path: dict[str, str]) -> Context:
        return Context(request, self._storage, path, dict(request.query_params), self._default_project)

    async def _json(self, request: Request, segments: list[str]) -> Response:
        if tuple(segments[:3]) == ("batch", "storage", "v1") and request.method == "POST":
            return await batch.answer(self._context(request, {}), self.respond)
        for root in _UPLOAD_ROOTS:
            if tuple(segments[: len(root)]) == root:
                return await self._upload(request, segments[len(root) :])
        for root in _JSON_ROOTS:
            if tuple(segments[: len(root)]) == root:
                found = methods.find(request.method, segments[len(root) :])
                if found is not None:
                    return await json_api.answer(found[0], self._context(request, found[1]))
        raise not_implemented(f"{request.method} {request.url.path}")

    async def _upload(self, request: Request, segments: list[str]) -> Response:
        found = methods.find("POST", segments)
        if found is None or found[0].id != "objects.insert":
            raise not_implemented(f"{request.method} {request.url.path}")
        context = self._context(request, found[1])
        if "upload_id" in context.query:
            return await resumable.go_on(context)
        if request.method != "POST":
            raise not_implemented(f"{request.method} {request.url.path}")
        return await json_api.upload(found[0], context)

    async def _xml(self, request: Request, segments: list[str]) -> Response:
        bucket, name = decoded(segments[0]), decoded("/".join(segments[1:]))
        if not bucket:
            raise not_implemented("The XML API's list of buckets")
        if not name:
            return await xml_api.answer_bucket(self._context(request, {"bucket": bucket}))
        return await xml_api.answer_object(self._context(request, {"bucket": bucket, "object": name}))


def _refusal(error: GcsError, request: Request, *, is_json: bool) -> Response:
    if error.status == 304 or request.method == "HEAD":
        return Response(status_code=error.status, headers=error.headers)
    if not is_json:
        return Response(error.xml_body(), error.status, error.headers, "application/xml; charset=UTF-8")
    if request.query_params.get("alt") == "media":
        return Response(error.message.encode(), error.status, error.headers, "text/html; charset=UTF-8")
    return Response(error.json_body(), error.status, error.headers, "application/json; charset=UTF-8")
