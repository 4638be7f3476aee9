"""How a proxy is told its mode: ``GET /mode`` and ``PUT /mode`` with JSON, on a port of its own on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Protocol

from holdfast.errors import HoldfastError
from holdfast.sandbox.ports import HOST

_LARGEST = 64 * 1024


class Controlled(Protocol):
    async def set_mode(self, request: dict[str, Any]) -> dict[str, Any]:
        """Switch modes. Raises BadFault."""

    def as_dict(self) -> dict[str, Any]:
        """The modes as they are."""


async def serve_control(proxy: Controlled, port: int) -> asyncio.Server:
    """Listen for mode requests."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(5.0):
                status, answer = await _answer(proxy, reader)
                body = json.dumps(answer).encode()
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        writer.close()

    return await asyncio.start_server(handle, HOST, port)


async def _answer(proxy: Controlled, reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]]:
    start, _, fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").partition("\r\n")
    method, path, *_ = [*start.split(" "), "", ""]
    lengths = [line.partition(":")[2] for line in fields.split("\r\n") if line.lower().startswith("content-length:")]
    size = int(lengths[0]) if lengths and lengths[0].strip().isdigit() else 0
    if path != "/mode":
        return "404 Not Found", {"what": "no such path", "expected": "/mode"}
    if method == "GET":
        return "200 OK", proxy.as_dict()
    if method != "PUT" or size > _LARGEST:
        return "405 Method Not Allowed", {"what": "expected GET or a small PUT"}
    try:
        request = json.loads(await reader.readexactly(size))
        if not isinstance(request, dict):
            raise ValueError("not an object")
        return "200 OK", await proxy.set_mode(request)
    except HoldfastError as error:
        return "400 Bad Request", error.as_dict()
    except ValueError as error:
        return "400 Bad Request", {"what": f"not a JSON object: {error}"}
