"""The batch endpoint: several calls in one ``multipart/mixed`` request.

https://cloud.google.com/storage/docs/batch. The calls are carried out one after the other, each on its own.
"""

from __future__ import annotations

import email.parser
import email.policy
from collections.abc import Awaitable, Callable
from email.message import Message

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from holdfast.sandbox.gcs.context import Context
from holdfast.sandbox.gcs.errors import invalid, not_implemented
from holdfast.sandbox.gcs.related import boundary_of

MOST_CALLS = 100
_BOUNDARY = "batch_holdfast_response"


async def answer(context: Context, respond: Callable[[Request], Awaitable[Response]]) -> Response:
    """Carry out the calls in a batch.

    Args:
        context: the batch request.
        respond: answers one request.
    """
    content_type = context.headers.get("content-type", "")
    boundary_of(content_type)
    raw = b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + await context.body()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(raw)
    parts = message.get_payload()
    if not isinstance(parts, list) or not parts:
        raise invalid("The batch is empty or malformed.")
    if len(parts) > MOST_CALLS:
        raise invalid(f"A batch holds at most {MOST_CALLS} calls, found {len(parts)}.")
    out = bytearray()
    for part in parts:
        if not isinstance(part, Message) or part.get_content_type() != "application/http":
            raise invalid("Each part of a batch must be application/http.")
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        response = await respond(_inner_request(context.request, payload))
        content_id = part.get("Content-ID", "").strip().strip("<>")
        out += _encode(response, content_id)
    out += f"--{_BOUNDARY}--\r\n".encode()
    return Response(bytes(out), media_type=f"multipart/mixed; boundary={_BOUNDARY}")


def _inner_request(outer: Request, payload: bytes) -> Request:
    head, _, body = payload.lstrip().replace(b"\r\n", b"\n").partition(b"\n\n")
    request_line, _, header_text = head.partition(b"\n")
    try:
        verb, target, _ = request_line.decode("ascii").split(" ", 2)
    except (UnicodeError, ValueError):
        raise invalid("A call in the batch has no request line.") from None
    path, _, query = target.partition("?")
    if path.startswith(("http://", "https://")):
        path = "/" + path.split("/", 3)[3]
    if path.startswith(("/upload", "/download", "/batch")) or "alt=media" in query:
        raise not_implemented("An upload or download inside a batch")
    headers = [(b"host", outer.headers.get("host", "").encode())]
    if "authorization" in outer.headers:
        headers.append((b"authorization", outer.headers["authorization"].encode()))
    for line in header_text.split(b"\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() not in (b"", b"host", b"authorization"):
            headers.append((name.strip().lower(), value.strip()))
    scope = {
        **outer.scope,
        "method": verb,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": headers,
    }

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, receive)


def _encode(response: Response, content_id: str) -> bytes:
    if isinstance(response, StreamingResponse):
        raise not_implemented("A download inside a batch")
    lines = [f"--{_BOUNDARY}", "Content-Type: application/http"]
    if content_id:
        lines.append(f"Content-ID: <response-{content_id}>")
    lines += ["", f"HTTP/1.1 {response.status_code} {_PHRASES.get(response.status_code, 'Status')}"]
    lines += [f"{name.decode()}: {value.decode('latin-1')}" for name, value in response.raw_headers]
    return "\r\n".join([*lines, "", ""]).encode() + bytes(response.body) + b"\r\n"


_PHRASES = {200: "OK", 204: "No Content", 304: "Not Modified", 404: "Not Found", 412: "Precondition Failed"}
