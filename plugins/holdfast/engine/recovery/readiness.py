"""What of a topology answers, part by part: each site's store, each group's register, each service and its record.

Only reads; a part that does not answer is a finding, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import httpx

from holdfast.engine.recovery.residency import refusals
from holdfast.engine.runtime import Runtime
from holdfast.errors import HoldfastError

Part = Literal["object store", "authority", "traffic record", "service", "residency"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of the world. ``ok`` is ``None`` where there is nothing to judge yet (a group not initialised)."""

    part: Part
    name: str
    ok: bool | None
    detail: str
    seconds: float


def check_readiness(runtime: Runtime, *, timeout_seconds: float = 5.0) -> list[Finding]:
    """Ask every part the topology names, in parallel.

    Args:
        runtime: the world to look at.
        timeout_seconds: the longest a service may take to answer; stores and registers have budgets of their own.
    """
    questions = list(_questions(runtime, timeout_seconds))
    with ThreadPoolExecutor(max_workers=max(1, len(questions)), thread_name_prefix="check") as pool:
        return list(pool.map(lambda question: _ask(runtime, *question), questions))


def _questions(
    runtime: Runtime, timeout_seconds: float
) -> Iterator[tuple[Part, str, Callable[[], tuple[bool | None, str]]]]:
    topology = runtime.topology
    for site in topology.sites:
        yield "object store", site, partial(_store, runtime, site)
    for group in topology.groups:
        yield "authority", group, partial(_authority, runtime, group)
        yield "residency", group, partial(_residency, runtime, group)
    for name, service in topology.services.items():
        yield "traffic record", name, partial(_record, runtime, name)
        for site, url in service.endpoints.items():
            yield "service", f"{name} at {site}", partial(_service, url, timeout_seconds)


def _ask(runtime: Runtime, part: Part, name: str, question: Callable[[], tuple[bool | None, str]]) -> Finding:
    started = runtime.clock.monotonic()
    ok: bool | None
    try:
        ok, detail = question()
    except HoldfastError as error:
        ok, detail = False, str(error)
    return Finding(part, name, ok, detail, round(runtime.clock.monotonic() - started, 3))


def _store(runtime: Runtime, site: str) -> tuple[bool, str]:
    store = runtime.store(site)
    next(iter(store.list("health/")), None)
    return True, f"{store.name} answers"


def _authority(runtime: Runtime, group: str) -> tuple[bool | None, str]:
    state = runtime.authority(group).read(group)
    if state is None:
        return None, f"not initialised; run `holdfast authority init {group}`"
    return True, f"epoch {state.epoch}, active {state.active_site}"


def _residency(runtime: Runtime, group: str) -> tuple[bool, str]:
    """Whether everything of the group may lie at each site that may become active."""
    sites = runtime.topology.group(group).sites
    forbidden = [
        error
        for site in (sites.active, *sites.standby)
        for error in refusals(runtime.topology, group, site, preview=True)
    ]
    if forbidden:
        return False, "; ".join(str(error) for error in forbidden)
    return True, "everything of it may lie at every active or standby site"


def _record(runtime: Runtime, service: str) -> tuple[bool | None, str]:
    state = runtime.traffic(service).read()
    if state is None:
        return None, "the record is not there yet"
    return True, f"points to {state.site} since epoch {state.epoch}"


def _service(url: str, timeout_seconds: float) -> tuple[bool, str]:
    try:
        answer = httpx.get(f"{url.rstrip('/')}/health", timeout=timeout_seconds)
    except httpx.HTTPError as error:
        return False, f"{url}: {type(error).__name__}: {error}"
    return answer.status_code == httpx.codes.OK, f"{url}: HTTP {answer.status_code} {answer.text[:120]}"
