"""A site with a managed compute service: its bucket is memory, its clock stands until somebody waits."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from holdfast.clock import Clock, FakeClock
from holdfast.engine.compute import JobHandle, JobSpec
from holdfast.engine.compute.opening import Opening
from holdfast.engine.compute.remote import heartbeat_key
from holdfast.engine.config import Connection, load_topology
from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.objectstore.interface import OVERWRITE

RUN, EPOCH = "market-volatility", 3
CREDENTIAL = "AIRFLOW_CONN_CLOUD"


class Bucket:
    """A bucket in memory whose own clock can go on."""

    def __init__(self) -> None:
        self._store = memory_store("site")
        self._later = timedelta()
        self._added: dict[str, timedelta] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def passes(self, seconds: float) -> None:
        self._later += timedelta(seconds=seconds)

    def put(self, key: str, data: Any, **more: Any) -> Any:
        done = self._store.put(key, data, **more)
        self._added[key] = self._later
        return done

    def head(self, key: str) -> Any:
        found = self._store.head(key)
        return SimpleNamespace(
            modified_at=found.modified_at + self._added.get(key, timedelta()), size_bytes=found.size_bytes
        )


def opening(
    folder: Path,
    kind: str,
    settings: dict[str, Any],
    *,
    client: Callable[[], Any] | None = None,
    connection: dict[str, Any] | None = None,
    store: ObjectStore | None = None,
    holder: str = "submitter-1",
    clock: Clock | None = None,
    environ: dict[str, str] | None = None,
) -> Opening:
    site = {
        "cloud": "aws",
        "region": "eu-west-1",
        "jurisdiction": "EU",
        "connection": "cloud",
        "bucket": "b",
        "compute": {"kind": kind, kind.replace("-", "_"): settings},
    }
    (folder / "train.py").touch()
    (folder / "topology.yaml").write_text(
        json.dumps({"version": 1, "sites": {"site-a": site}, "groups": {}, "datasets": {}, "training": {}})
    )
    topology = load_topology(folder / "topology.yaml", {})
    bucket = store or memory_store("site-a")
    return Opening(
        "site-a",
        topology.site("site-a"),
        environ if environ is not None else {CREDENTIAL: json.dumps({"conn_type": "aws", "password": "p" * 700})},
        topology,
        lambda: bucket,
        lambda: Connection.model_validate({"conn_id": "cloud", "conn_type": "aws", **(connection or {})}),
        client,
        holder,
        clock or FakeClock(),
    )


def job(folder: Path, *, epoch: int = EPOCH, **more: Any) -> JobSpec:
    contract = {
        "HOLDFAST_TOPOLOGY": str(folder / "topology.yaml"),
        "HOLDFAST_SITE": "site-a",
        "HOLDFAST_RUN": RUN,
        "HOLDFAST_EPOCH": str(epoch),
    }
    return JobSpec(RUN, epoch, "site-a", (sys.executable, str(folder / "train.py"), "--flag"), contract, **more)


def beat(store: ObjectStore, handle: JobHandle, state: str, *, step: int = 7) -> None:
    """The trainer's heartbeat, as `checkpoint.heartbeat` writes it."""
    key = heartbeat_key(RUN, int(handle.name.rpartition(".e")[2]), int(handle.reference["attempt"]))
    document = {
        "format": "holdfast.job-heartbeat/1",
        "state": state,
        "step": step,
        "total_steps": 100,
        "at": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
    }
    store.put(key, json.dumps(document).encode(), mode=OVERWRITE)
