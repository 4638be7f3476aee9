"""Three folders as sites, for tests that want whole processes and no emulator.

A folder has no compare-and-swap, so the register of who is active is in memory: ``site-a``, in epoch 1.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from holdfast.clock import SystemClock
from holdfast.engine.authority import MemoryEpochStore
from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.pipeline.vaults.opening import opened
from holdfast.engine.pipeline.vaults.verifying import last_sample
from holdfast.engine.runtime import Runtime

SITES = ("site-a", "site-b", "site-c")


class SlowStore(StoreDecorator):
    """A store whose puts of data take their time."""

    def __init__(self, inner: Any, seconds: float) -> None:
        super().__init__(inner)
        self._seconds = seconds

    def put(self, key: str, *args: Any, **kwargs: Any) -> Any:
        if key.startswith("data/"):
            time.sleep(self._seconds)
        return super().put(key, *args, **kwargs)


class FolderRuntime(Runtime):
    """A runtime whose standby sites may be slow to write."""

    put_seconds = 0.0

    def store(self, site: str, **kwargs: Any) -> Any:
        found = super().store(site, **kwargs)
        return found if site == SITES[0] else SlowStore(found, self.put_seconds)

    def authority(self, group: str) -> Any:
        made = MemoryEpochStore(clock=SystemClock())
        made.advance(group, expected_epoch=0, active_site=SITES[0], plan_id="init", reason="test")
        return made


def make_folders(folder: Path, **datasets: dict[str, Any]) -> Path:
    """A topology of three sites in folders with one group ``desk``; where its file is.

    Args:
        folder: where everything lies.
        datasets: name → settings; by default one dataset ``prices``.
    """
    named = {name.replace("_", "-"): settings for name, settings in datasets.items()} or {"prices": {}}
    for site in SITES:
        (folder / site).mkdir()
    roles = {"active": SITES[0], "standby": [SITES[1]], "witness": [SITES[2]]}
    document = {
        "version": 1,
        "sites": {
            site: {
                "cloud": "local",
                "region": "here",
                "jurisdiction": "EU" if site != SITES[2] else "US",
                "connection": "none",
                "bucket": str(folder / site),
                "compute": {"kind": "process", "queue": f"queue-of-{site}"},
            }
            for site in SITES
        },
        "residency": {"eu-only": {"jurisdictions": ["EU"]}},
        "datasets": {name: {"path": name, **settings} for name, settings in named.items()},
        "groups": {
            "desk": {
                "owner": "somebody",
                "tier": 1,
                "sites": roles,
                "objectives": {"rpo_seconds": 60, "rto_seconds": 60},
                "datasets": sorted(named),
            }
        },
    }
    file = folder / "topology.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def folder_runtime(topology: Path, *, put_seconds: float = 0.0) -> FolderRuntime:
    """The runtime over such a topology."""
    made = FolderRuntime(
        load_topology(topology, os.environ), EnvironmentConnections({}), access=lambda _name, _site: StoreAccess()
    )
    made.put_seconds = put_seconds
    return made


def add_vault(topology: Path, **settings: Any) -> Path:
    """Give the group of `make_folders` a vault ``desk`` at ``site-b``, mirrored at ``site-c``, and keys for it.

    Args:
        settings: of the vault, over those defaults.
    """
    folder = topology.parent
    for role in ("writer", "reader", "admin"):
        (folder / f"{role}.key").write_text(os.urandom(32).hex())
    document = yaml.safe_load(topology.read_text())
    document["vaults"] = {
        "desk": {
            "site": SITES[1],
            "mirrors": [SITES[2]],
            "witnesses": [SITES[0], SITES[2]],
            "keys": {role: [f"file:{folder}/{role}.key"] for role in ("writer", "reader", "admin")},
            **settings,
        }
    }
    document["groups"]["desk"]["vaults"] = ["desk"]
    topology.write_text(yaml.safe_dump(document))
    return topology


def last_sample_of(topology: Path, site: str | None = None) -> datetime | None:
    """When the last sample of the vault ``desk``, or of its mirror at a site, began."""
    return last_sample(opened(folder_runtime(topology), "desk", "writer", site=site))
