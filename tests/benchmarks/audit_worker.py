"""One step of the audit benchmark, a process a step.

    python audit_worker.py make KIND COUNT FILE      events and their objects' sizes into files; not measured
    python audit_worker.py seal KIND FILE FOLDER     read, normalise, commit, write and seal them; one process, one core
    python audit_worker.py verify FOLDER             verify the export, its key trusted
    python audit_worker.py naive KIND FILE FOLDER    the row-by-row path over the same events
    python audit_worker.py proof FOLDER              prove one event, and check the proof many times

Prints ``measured=[wall, cpu]``, ``peak_bytes=N`` and what is known of the result.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import cloud_events
import cloudtrail_events
import own_events
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from harness import print_peak

from holdfast.clock import SystemClock
from holdfast.engine.audit.collect import Asked, collect
from holdfast.engine.audit.interface import Batch, Coverage, Document, Interval, SourceObject
from holdfast.engine.audit.manifest import Retention
from holdfast.engine.audit.seal import Collected, seal
from holdfast.engine.audit.segments import EVENTS_SCHEMA
from holdfast.engine.audit.sources.filling import Filling
from holdfast.engine.audit.tlog.keys import LocalSigner
from holdfast.engine.config.audit import AzureMonitorSource, CloudLoggingSource, KubernetesSource
from holdfast.engine.objectstore import memory_store

START = datetime(2026, 11, 29, 12, tzinfo=UTC)
DAY = Interval(START, START + timedelta(days=1))
#: So many events an object holds, as one log file of a cloud does.
_OF_AN_OBJECT = 5_000
KINDS: dict[str, Callable[[int], Iterator[bytes]]] = {
    "cloudtrail": cloudtrail_events.events,
    "cloud-logging": cloud_events.gcp,
    "azure-monitor": cloud_events.azure,
    "kubernetes": cloud_events.kubernetes,
    "airflow": own_events.airflow,
    "holdfast": own_events.holdfast,
}
SIGNER = LocalSigner.of("example.com/bench", Ed25519PrivateKey.from_private_bytes(b"b" * 32))


def normaliser(kind: str) -> Callable[[pa.LargeBinaryArray], pa.Table]:
    """The leaf's own."""
    from holdfast.engine.audit.sources import (
        airflow_events,
        azure_monitor,
        cloud_logging,
        cloudtrail_events,
        holdfast_events,
        kubernetes,
    )

    if kind in ("cloudtrail", "airflow", "holdfast"):
        module: Any = {"cloudtrail": cloudtrail_events, "airflow": airflow_events, "holdfast": holdfast_events}[kind]
        found: Callable[[pa.LargeBinaryArray], pa.Table] = module.normalise
        return found
    store, clock = memory_store(kind), SystemClock()
    place = {"site": "bench", "bucket": "bench"}
    if kind == "cloud-logging":
        settings = CloudLoggingSource(kind="cloud-logging", **place)
        return cloud_logging.CloudLogging("bench", settings, store, clock).normalise
    if kind == "azure-monitor":
        account = AzureMonitorSource(kind="azure-monitor", resource_id="/SUBSCRIPTIONS/BENCH", **place)
        return azure_monitor.AzureMonitor("bench", account, store, clock).normalise
    cluster = KubernetesSource(kind="kubernetes", cluster="bench", **place)
    return kubernetes.Kubernetes("bench", cluster, store, clock).normalise


class Lines:
    """A source whose objects are parts of a file of JSON lines, gzip'd away: what a bucket would give, without one."""

    name = "bench"

    def __init__(self, kind: str, file: Path) -> None:
        self.kind, self.file = "bench", file
        self.normalise = normaliser(kind)
        self._objects = self._rows = 0

    def intervals(self, window: Interval) -> list[Interval]:
        return [window]

    def read(self, interval: Interval) -> Iterator[Batch]:
        batch = Filling()
        for content in _objects(self.file):
            records = content.split(b"\n")
            digest = hashlib.sha256(content).hexdigest()
            batch.add(SourceObject(f"object-{self._objects:06d}", len(content), digest, digest), records)
            self._objects += 1
            self._rows += len(records)
            if batch.is_full:
                yield batch.take()
        if batch.objects:
            yield batch.take()

    def completeness(self, interval: Interval) -> Coverage:
        return Coverage(interval, "bench", 1, 1, self._objects, self._rows)

    def documents(self, interval: Interval) -> Iterator[Document]:
        yield from ()


def _objects(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        for size in json.loads(_sizes(file).read_bytes()):
            yield opened.read(size)[:-1]


def _sizes(file: Path) -> Path:
    return file.with_suffix(".sizes")


def make(kind: str, count: str, file: str) -> None:
    events, sizes = KINDS[kind](int(count)), []
    with Path(file).open("wb") as opened:
        while lines := b"".join(event + b"\n" for event in islice(events, _OF_AN_OBJECT)):
            sizes.append(opened.write(lines))
    _sizes(Path(file)).write_text(json.dumps(sizes))


def seal_all(kind: str, file: str, folder: str) -> None:
    source, place = Lines(kind, Path(file)), Path(folder)
    export = place / "export"
    export.mkdir(parents=True)
    with _measured():
        units = collect(Asked(source, (DAY,), {}), place / "staging")
        done = seal(
            export,
            origin=SIGNER.key.name,
            collected=[Collected(source, DAY, tuple(units))],
            documents=[],
            previous=None,
            signers=[SIGNER],
            retention=Retention(),
            at=DAY.end,
            by="bench",
        )
    files = done.manifest.files()
    print(f"stored_bytes={sum(one.size_bytes for one in files)}")
    print(f"events={sum(one.rows for one in done.manifest.segments)}")


def verify(folder: str) -> None:
    from holdfast.engine.audit.verify import verify_export

    with _measured():
        answer = verify_export(Path(folder) / "export", trusted=[SIGNER.key]).answer
    assert answer.verdict == "fine", answer.problems


def proof(folder: str) -> None:
    from holdfast.engine.audit.prove import EVENT, PROOF, find_event, prove_event, write_proof
    from holdfast.engine.audit.tlog.notes import Policy
    from holdfast.engine.audit.tlog.proofs import verify_proof
    from holdfast.engine.audit.verify import verify_export

    export = Path(folder) / "export"
    verified = verify_export(export, trusted=[SIGNER.key])
    assert verified.manifest is not None
    (place,) = find_event(export, verified.manifest, f"leaf:{verified.manifest.size // 3}")
    shown = write_proof(prove_event(export, verified, place), export, Path(folder) / "proof")
    raw, encoded = (shown / EVENT).read_bytes(), (shown / PROOF).read_bytes()
    policy, times = Policy.of(SIGNER.key), 2000
    with _measured(times):
        for _ in range(times):
            verify_proof(encoded, b"\x01" + hashlib.sha256(raw).digest(), SIGNER.key.name, policy)


def naive(kind: str, file: str, folder: str) -> None:
    """Each event parsed, mapped, hashed and kept as a Python object; the tree recursive; what one writes first."""
    rows: list[dict[str, Any]] = []
    leaves: list[bytes] = []
    place = Path(folder)
    place.mkdir(parents=True)
    with _measured():
        with Path(file).open("rb") as opened:
            for line in opened:
                raw = line[:-1]
                event = json.loads(raw)
                rows.append(_row(kind, event, raw))
                digest = hashlib.sha256(raw).digest()
                leaves.append(hashlib.sha256(b"\0\1" + digest).digest())
        pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS_SCHEMA), place / "events.parquet", compression="zstd")
        root = _root(leaves)
        (place / "root").write_text(root.hex())
    print(f"stored_bytes={(place / 'events.parquet').stat().st_size}")
    print(f"events={len(rows)}")


def _row(kind: str, event: dict[str, Any], raw: bytes) -> dict[str, Any]:
    """The same schema as ours, with the fields these kinds of events share."""
    identity = event.get("userIdentity") or event.get("user") or {}
    identity = identity if isinstance(identity, dict) else {}
    payload = event.get("protoPayload") or {}
    who = identity.get("arn") or identity.get("username") or event.get("caller")
    operation = event.get("eventName") or payload.get("methodName") or event.get("operationName") or event.get("verb")
    operation = operation or event.get("event") or event.get("action")
    when = str(
        event.get("eventTime")
        or event.get("timestamp")
        or event.get("time")
        or event.get("stageTimestamp")
        or event.get("when")
        or event.get("at")
    )
    return {
        "class_uid": 6003,
        "category_uid": 6,
        "activity_id": 99,
        "type_uid": 600399,
        "severity_id": 1,
        "status_id": 2 if event.get("errorCode") else 1,
        "status_code": event.get("errorCode"),
        "time": int(datetime.fromisoformat(f"{when.rstrip('Z')[:26]}+00:00").timestamp() * 1000),
        "metadata": {
            "version": "1.8.0",
            "uid": event.get("eventID") or event.get("insertId") or event.get("correlationId") or event.get("auditID"),
            "product": {"name": kind, "vendor_name": kind},
            "profiles": ["cloud"],
        },
        "cloud": {"provider": kind, "region": event.get("awsRegion")},
        "actor": {
            "user": {
                "uid": who or (payload.get("authenticationInfo") or {}).get("principalEmail"),
                "name": identity.get("userName"),
                "type": identity.get("type"),
                "credential_uid": identity.get("accessKeyId"),
                "account": {"uid": identity.get("accountId")},
            }
        },
        "src_endpoint": {"ip": event.get("sourceIPAddress") or event.get("callerIpAddress")},
        "http_request": {"user_agent": event.get("userAgent")},
        "api": {
            "operation": operation,
            "service": {"name": event.get("eventSource") or payload.get("serviceName")},
            "request": {"uid": event.get("requestID")},
            "response": {"error": event.get("errorCode"), "error_message": event.get("errorMessage")},
        },
        "raw": raw,
    }


def _root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\1" + _root(leaves[:split]) + _root(leaves[split:])).digest()


class _measured:
    """Wall and CPU seconds of what is inside, divided by how often it was done."""

    def __init__(self, times: int = 1) -> None:
        self._times = times

    def __enter__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def __exit__(self, *error: object) -> None:
        wall, cpu = time.monotonic() - self._wall, time.process_time() - self._cpu
        if error[0] is None:
            print(f"measured={json.dumps([wall / self._times, cpu / self._times])}")
            print_peak()


if __name__ == "__main__":
    {"make": make, "seal": seal_all, "verify": verify, "naive": naive, "proof": proof}[sys.argv[1]](*sys.argv[2:])
