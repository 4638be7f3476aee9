"""Which site's store encrypts what."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.config import Cloud, Site
from holdfast.engine.config.models import Dataset, Group, Objectives, Roles
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import StoreAccess, local_store
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError

KEY = base64.b64encode(bytes(32)).decode()


class TwoSites:
    """As much of a topology as `Runtime.store` asks for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.residency: dict[str, object] = {}
        self.groups = {
            "shop": Group(
                owner="x",
                tier=1,
                sites=Roles(active="home", standby=("away",)),
                objectives=Objectives(rpo_seconds=1, rto_seconds=1),
                datasets=("sales", "open"),
            )
        }

    def site(self, name: str) -> Site:
        (self._folder / name).mkdir(exist_ok=True)
        bucket = str(self._folder / name)
        return Site(cloud=Cloud.LOCAL, region="r", jurisdiction="EU", connection="none", bucket=bucket)

    def dataset(self, name: str) -> Dataset:
        return Dataset(path=name, sync=Sync(encrypt="SALES_KEY" if name == "sales" else None))


def runtime(folder: Path, environ: dict[str, str]) -> Runtime:
    topology: Any = TwoSites(folder)
    nothing: Any = None
    return Runtime(topology, nothing, access=lambda *_: StoreAccess(), environ=environ)


def test_a_dataset_lies_plain_at_home_and_encrypted_away(tmp_path: Path) -> None:
    made = runtime(tmp_path, {"SALES_KEY": KEY})
    for site in ("home", "away"):
        for key in ("data/sales/x", "data/open/x"):
            made.store(site).put(key, b"plain text")
            assert made.store(site).get(key) == b"plain text"
    stored = {
        (site, name): local_store(site, tmp_path / site).get(f"data/{name}/x")
        for site in ("home", "away")
        for name in ("sales", "open")
    }
    assert [place for place, data in stored.items() if b"plain" not in data] == [("away", "sales")]


def test_the_key_is_asked_for_when_the_data_is(tmp_path: Path) -> None:
    store = runtime(tmp_path, {}).store("away")
    store.put("heartbeats/home", b"1")
    with pytest.raises(ConfigError, match="SALES_KEY"):
        store.put("data/sales/x", b"1")
