"""Talking to a site's proxy over its control port."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

from holdfast.sandbox.errors import BadFault, PartFailed
from holdfast.sandbox.ports import HOST

_AGAIN_SECONDS = 0.1


def set_proxy_mode(port: int, request: dict[str, Any], *, site: str, patience_seconds: float = 5.0) -> None:
    """Switch a proxy's mode.

    Args:
        patience_seconds: how long to ask again a proxy that does not answer; one that died is started again in less.

    Raises:
        BadFault: it refused the request.
        PartFailed: it did not answer.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            status, answer = _ask(port, "PUT", json.dumps(request).encode())
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise PartFailed(
                    "the fault proxy does not answer",
                    where=f"{site}, {HOST}:{port}",
                    found=str(error),
                    fix="Run: holdfast sandbox up",
                ) from None
            time.sleep(_AGAIN_SECONDS)
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
