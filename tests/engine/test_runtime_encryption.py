"""Which site's store encrypts what."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from holdfast.engine.config import EnvironmentConnections, Topology
from holdfast.engine.objectstore import StoreAccess, local_store
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError

KEY = base64.b64encode(bytes(32)).decode()


def runtime(folder: Path, environ: dict[str, str]) -> Runtime:
    for name in ("home", "away"):
        (folder / name).mkdir()
    place = {"cloud": "local", "region": "r", "jurisdiction": "EU", "connection": "none"}
    topology = Topology.model_validate(
        {
            "version": 1,
            "sites": {name: {**place, "bucket": str(folder / name)} for name in ("home", "away", "third")},
            "datasets": {"sales": {"path": "sales", "sync": {"encrypt": "SALES_KEY"}}, "open": {"path": "open"}},
            "groups": {
                "shop": {
                    "owner": "x",
                    "tier": 1,
                    "sites": {"active": "home", "standby": ["away"], "witness": ["third"]},
                    "objectives": {"rpo_seconds": 1, "rto_seconds": 1},
                    "datasets": ["sales", "open"],
                }
            },
        }
    )
    return Runtime(topology, EnvironmentConnections({}), access=lambda *_: StoreAccess(), environ=environ)


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
