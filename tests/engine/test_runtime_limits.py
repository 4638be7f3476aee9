"""A site's limits hold for every store the runtime gives of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.config import Cloud, Site
from holdfast.engine.config.models import Limits
from holdfast.engine.objectstore import StoreAccess
from holdfast.engine.runtime import Runtime


class OneSite:
    """As much of a topology as `Runtime.store` asks for."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.datasets: dict[str, Any] = {}
        self.residency: dict[str, Any] = {}

    def site(self, name: str) -> Site:
        return self._site


def runtime(folder: Path, clock: FakeClock, limits: Limits) -> Runtime:
    site = Site(
        cloud=Cloud.LOCAL, region="here", jurisdiction="EU", connection="none", bucket=str(folder), limits=limits
    )
    topology: Any = OneSite(site)
    return Runtime(topology, connections=None, access=lambda *_: StoreAccess(), clock=clock)  # type: ignore[arg-type]


def test_every_flow_of_a_site_shares_its_limits(tmp_path: Path) -> None:
    clock = FakeClock()
    made = runtime(tmp_path, clock, Limits(requests_per_second=2))
    for number in range(20):
        made.store("a", flow=f"group-{number % 2}").put(str(number), b"x")
    assert clock.monotonic() == pytest.approx(9.0, abs=0.6)


def test_a_flow_has_one_store(tmp_path: Path) -> None:
    made = runtime(tmp_path, FakeClock(), Limits())
    assert made.store("a", flow="g") is made.store("a", flow="g")
    assert made.store("a") is made.stores(["a"])["a"]
