"""Reading a trail back from its bucket, as whoever audits it would."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from holdfast.engine.audit.sources.opening import bucket_of
from holdfast.engine.runtime import Runtime
from holdfast.sandbox.trails.names import trail_buckets


@dataclass(frozen=True)
class TrailCount:
    """What the trail of one site holds.

    Args:
        bucket: or containers.
        objects: with events in them; digests are not counted.
        most: operations and how often, the most frequent first.
    """

    site: str
    cloud: str
    bucket: str
    objects: int
    events: int
    most: tuple[tuple[str, int], ...]


def count_trails(runtime: Runtime) -> Iterator[TrailCount]:
    """Every site's trail, read through its fault proxy like anything else. Raises StoreError."""
    for name, site in runtime.topology.sites.items():
        buckets = trail_buckets(site.cloud, site.bucket)
        names: Counter[str] = Counter()
        objects = 0
        for bucket in buckets:
            for events in _objects(runtime, name, bucket):
                objects += 1
                names.update(_operation(event) for event in events)
        yield TrailCount(name, site.cloud, ", ".join(buckets), objects, names.total(), tuple(names.most_common()))


def _objects(runtime: Runtime, site: str, bucket: str) -> Iterator[list[dict[str, Any]]]:
    store = bucket_of(runtime, site, bucket)
    for found in store.list():
        data = store.get(found.key)
        if found.key.endswith(".gz"):
            if "/CloudTrail/" in found.key:
                yield json.loads(gzip.decompress(data))["Records"]
        else:
            yield [json.loads(line) for line in data.splitlines()]


def _operation(event: dict[str, Any]) -> str:
    payload = event.get("protoPayload") or {}
    return str(event.get("eventName") or payload.get("methodName") or event.get("operationName"))
