"""The model service of a site over HTTP: it answers only while its site holds the lease, and says in which epoch."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from holdfast.engine.agent.predictor import BadInstances

if TYPE_CHECKING:
    from holdfast.engine.agent.agent import SiteAgent

MOST_INSTANCES = 10_000
_MOST_BYTES = 8 * 1024 * 1024
_LOOPBACK = {"127.0.0.1", "::1", "testclient"}


def build_app(agent: SiteAgent) -> Starlette:
    """The service's HTTP interface.

    ``GET /health``: 200 when the site can do what its role asks; the body says what it knows.
    ``POST /predict``: ``{"instances": [[…]]}`` → ``{"predictions", "epoch", "site", "model"}``; 503 with ``refused``
    when this site may not answer.
    ``GET /epoch``: the newest epoch this site read.
    ``POST /refresh``: read the authority and the model now; only from this machine.
    """

    async def health(_: Request) -> JSONResponse:
        able, body = agent.health()
        return JSONResponse(body, status_code=200 if able else 503)

    async def epoch(_: Request) -> JSONResponse:
        return JSONResponse(agent.epochs())

    async def predict(request: Request) -> JSONResponse:
        refusal = agent.refusal()
        if refusal is not None:
            return _refuse(agent, refusal)
        try:
            instances = _instances(await _body(request))
        except BadInstances as error:
            return JSONResponse(error.as_dict(), status_code=400)
        return await run_in_threadpool(_predict, agent, instances)

    async def refresh(request: Request) -> JSONResponse:
        if request.client is None or request.client.host not in _LOOPBACK:
            return JSONResponse({"refused": "only from this machine"}, status_code=403)
        agent.nudge()
        return JSONResponse({"refreshing": True}, status_code=202)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/epoch", epoch),
            Route("/predict", predict, methods=["POST"]),
            Route("/refresh", refresh, methods=["POST"]),
        ]
    )


def _predict(agent: SiteAgent, instances: list[list[float]]) -> JSONResponse:
    held = agent.servable()
    if held is None:
        return _refuse(agent, agent.refusal() or "the lease was just lost")
    try:
        if held.predictor.features is not None and any(len(row) != held.predictor.features for row in instances):
            raise BadInstances(
                "an instance has the wrong number of features",
                where="instances",
                expected=str(held.predictor.features),
                found=str(sorted({len(row) for row in instances})),
            )
        predictions = held.predictor.predict(instances)
    except BadInstances as error:
        return JSONResponse(error.as_dict(), status_code=400)
    # Once more, as late as can be: this process may have been stopped while it was computing.
    if agent.servable() != held:
        return _refuse(agent, agent.refusal() or "the epoch changed while this was computed")
    return JSONResponse(
        {"predictions": predictions, "epoch": held.epoch, "site": agent.site, "model": held.version.digest}
    )


def _refuse(agent: SiteAgent, reason: str) -> JSONResponse:
    return JSONResponse({"refused": reason, **agent.epochs()}, status_code=503)


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise BadInstances(
                "the request is too large", where="body", expected=f"at most {_MOST_BYTES} bytes", found="more"
            )
    return body


def _instances(body: bytes) -> list[list[float]]:
    try:
        document: Any = json.loads(body)
    except ValueError:
        document = None
    rows = document.get("instances") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST_INSTANCES or not all(map(_is_row, rows)):
        raise BadInstances(
            "the request cannot be read",
            where="body",
            expected=f'{{"instances": [[number, …], …]}} with 1 to {MOST_INSTANCES} instances',
            found=body[:80].decode(errors="replace"),
        )
    return rows


def _is_row(row: object) -> bool:
    return isinstance(row, list) and all(type(value) in (int, float) and math.isfinite(value) for value in row)
