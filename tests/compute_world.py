"""A site with a managed compute service: its bucket is memory, its clock stands until somebody waits."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
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
