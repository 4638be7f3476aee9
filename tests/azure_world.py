"""A site on Azure whose bucket is in memory, and a job for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compute_world import Bucket
from holdfast.clock import FakeClock
from holdfast.engine.compute import JobSpec
from holdfast.engine.compute.opening import Opening
from holdfast.engine.compute.remote import heartbeat_key
from holdfast.engine.config import load_topology
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.objectstore.interface import OVERWRITE

RUN, EPOCH = "fx-volatility", 3
SECRETS = {"AIRFLOW_CONN_CLOUD": '{"password": "hush"}', "BUCKET": "models"}


class World:
    """The opening of a backend, a store shared by every submitter, and a clock that starts now."""

    def __init__(self, folder: Path, compute: dict[str, Any], client: Callable[[], Any]) -> None:
        (folder / "train.py").write_text("")
        site = {"cloud": "azure", "region": "westeurope", "jurisdiction": "EU", "connection": "cloud"}
        topology = {
            "version": 1,
            "sites": {"site-c": {**site, "bucket": "${BUCKET}", "compute": compute}},
            "groups": {},
            "datasets": {},
        }
        self.topology_text = json.dumps(topology)
        (folder / "topology.yaml").write_text(self.topology_text)
        self.clock = FakeClock(datetime.now(UTC))
        self.store = Bucket()
        it = load_topology(folder / "topology.yaml", SECRETS)
        self.opening = Opening(
            "site-c",
            it.site("site-c"),
            SECRETS,
            it,
            lambda: self.store,  # type: ignore[arg-type, return-value]
            lambda: None,  # type: ignore[arg-type, return-value]
            client,
            "worker-1",
            self.clock,
        )
        self.spec = JobSpec(
            RUN,
            EPOCH,
            "site-c",
            (sys.executable, "-u", str(folder / "train.py"), "--flag"),
            {"HOLDFAST_TOPOLOGY": str(folder / "topology.yaml"), "HOLDFAST_RUN": RUN, "HOLDFAST_EPOCH": str(EPOCH)},
        )

    def held_by(self, holder: str, **changes: Any) -> Opening:
        return replace(self.opening, holder=holder, **changes)

    def beat(self, attempt: int = 1, **members: Any) -> None:
        """The heartbeat as the job would write it."""
        document = {"format": "holdfast.job-heartbeat/1", "at": self.clock.now().isoformat(), **members}
        self.store.put(heartbeat_key(RUN, EPOCH, attempt), json.dumps(document).encode(), mode=OVERWRITE)


class DeadStore:
    """A bucket in a cloud that is gone."""

    def __getattr__(self, _: str) -> Any:
        def gone(*_: object, **__: object) -> Any:
            raise StoreUnavailable("the bucket does not answer", where="test")

        return gone
