"""The real senses of a plan: probes, DNS like a client's, HTTP to the services."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import httpx

from holdfast.engine.health.interface import SiteVerdict
from holdfast.engine.health.watch import NotDown, open_watch
from holdfast.engine.recovery.interface import Answer, Rooms
from holdfast.engine.traffic import resolve_service
from holdfast.errors import ConfigError, HoldfastError


class RealSenses:
    """`Senses` over the network. Each question is a connection of its own, as a new client's would be."""

    @cached_property
    def _http(self) -> httpx.Client:
        # One client, because building one costs tens of milliseconds; no kept connections, because a kept one would
        # go on to the old site after the switch.
        return httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))

    def verdict(self, rooms: Rooms, group: str, site: str, *, deadline_seconds: float) -> SiteVerdict:
        stores = {name: rooms.store(name) for name in rooms.topology.group(group).sites.all()}
        watch = open_watch(rooms.topology, group, stores, clock=rooms.clock)
        try:
            return watch.detect_down(site, deadline_seconds=deadline_seconds)
        except NotDown as error:
            return error.verdict

    def ask(self, rooms: Rooms, service: str, *, timeout_seconds: float) -> Answer:
        began = rooms.clock.monotonic()
        settings = rooms.topology.service(service)
        try:
            addresses = resolve_service(settings.record, resolver=settings.record.resolver, timeout=timeout_seconds)
        except HoldfastError as error:
            return _silent(rooms, began, None, str(error))
        if not addresses:
            return _silent(rooms, began, None, f"{settings.record.name} resolves to nothing")
        host, port = addresses[0]
        return self._predict(rooms, service, f"http://{host}:{port or 80}", began, timeout_seconds)

    def ask_site(self, rooms: Rooms, service: str, site: str, *, timeout_seconds: float) -> Answer:
        began = rooms.clock.monotonic()
        url = rooms.topology.service(service).endpoints.get(site)
        if url is None:
            return _silent(rooms, began, None, f"{service} has no endpoint at {site}")
        return self._predict(rooms, service, url.rstrip("/"), began, timeout_seconds)

    def refresh(self, rooms: Rooms, service: str, site: str, *, timeout_seconds: float) -> bool:
        url = rooms.topology.service(service).endpoints.get(site)
        if url is None:
            return False
        try:
            return self._http.post(f"{url.rstrip('/')}/refresh", timeout=timeout_seconds).is_success
        except httpx.HTTPError:
            return False

    def reference(self, rooms: Rooms, service: str, files: Mapping[str, bytes]) -> tuple[float, ...] | None:
        return predict_golden(rooms, service, files)

    def _predict(self, rooms: Rooms, service: str, url: str, began: float, timeout_seconds: float) -> Answer:
        body = {"instances": golden_instances(rooms, service)}
        try:
            response = self._http.post(f"{url}/predict", json=body, timeout=timeout_seconds)
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            return _silent(rooms, began, url, f"{url}: {type(error).__name__}: {error}")
        return _answer(answer, url, rooms.clock.monotonic() - began, response.status_code)


def golden_instances(rooms: Rooms, service: str) -> list[Any]:
    """The questions of a service's golden set.

    Raises:
        ConfigError: the service names no golden set, or the file cannot be read.
    """
    name = rooms.topology.service(service).golden_set
    if name is None:
        raise ConfigError(
            "the service has no golden set to ask",
            where=f"services.{service}.golden_set",
            expected="a JSON file beside the topology",
            found="nothing",
        )
    path = rooms.topology.beside(name)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        instances = document["instances"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "the golden set cannot be read",
            where=str(path),
            expected='{"instances": [[…], …]}',
            found=f"{type(error).__name__}: {error}",
        ) from None
    return list(instances)


def predict_golden(rooms: Rooms, service: str, files: Mapping[str, bytes]) -> tuple[float, ...] | None:
    """What a model of these files answers to the golden set, computed in this process; ``None`` without its library."""
    from holdfast.engine.agent.predictor import load_predictor

    try:
        return tuple(load_predictor(files).predict(golden_instances(rooms, service)))
    except (HoldfastError, ImportError):
        return None


def _answer(answer: Any, url: str, seconds: float, status: int) -> Answer:
    if not isinstance(answer, dict):
        return Answer(None, None, None, None, url, seconds, refused=f"HTTP {status}: no JSON object")
    predictions = answer.get("predictions")
    refused = answer.get("refused") or (None if status == httpx.codes.OK else f"HTTP {status}")
    return Answer(
        site=answer.get("site"),
        epoch=answer.get("epoch"),
        model=answer.get("model"),
        predictions=None if predictions is None or refused else tuple(float(p) for p in predictions),
        address=url,
        seconds=seconds,
        refused=refused,
    )


def _silent(rooms: Rooms, began: float, url: str | None, why: str) -> Answer:
    return Answer(None, None, None, None, url, rooms.clock.monotonic() - began, refused=why)
