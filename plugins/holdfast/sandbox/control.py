"""Talking to a site's proxy over its control port."""

from __future__ import annotations

import http.client
import json
from typing import Any

from holdfast.sandbox.errors import BadFault, PartFailed
from holdfast.sandbox.ports import HOST


def set_proxy_mode(port: int, request: dict[str, Any], *, site: str) -> None:
    """Switch a proxy's mode.

    Raises:
        BadFault: it refused the request.
        PartFailed: it did not answer.
    """
    try:
        status, answer = _ask(port, "PUT", json.dumps(request).encode())
    except OSError as error:
        raise PartFailed(
            "the fault proxy does not answer",
            where=f"{site}, {HOST}:{port}",
            found=str(error),
            fix="Run: holdfast sandbox up",
        ) from None
    if status != 200:
        raise BadFault(
            str(answer.get("what")),
            where=answer.get("where"),
            expected=answer.get("expected"),
            found=answer.get("found"),
        )


def proxy_modes(port: int) -> dict[str, Any]:
    """The mode of each listener; empty when the proxy does not answer."""
    try:
        status, answer = _ask(port, "GET", None)
    except OSError:
        return {}
    return dict(answer["listeners"]) if status == 200 else {}


def _ask(port: int, method: str, body: bytes | None) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(HOST, port, timeout=2.0)
    try:
        connection.request(method, "/mode", body=body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"no sensible answer: {error}") from error
    finally:
        connection.close()
