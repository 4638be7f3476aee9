"""The OCSF columns of raw events without their source: what a verifier offline can make again."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

#: Events of one kind of source → a table of `holdfast.engine.audit.ocsf.schema.SCHEMA`.
Normalise = Callable[[pa.LargeBinaryArray], pa.Table]


def normaliser(kind: str) -> Normalise | None:
    """Of a kind of source; ``None``: its columns need more than the bytes (Kubernetes events lack their cluster)."""
    match kind:
        case "cloudtrail":
            from holdfast.engine.audit.sources.cloudtrail_events import normalise as cloudtrail

            return cloudtrail
        case "airflow":
            from holdfast.engine.audit.sources.airflow_events import normalise as airflow

            return airflow
        case "holdfast":
            from holdfast.engine.audit.sources.holdfast_events import normalise as holdfast

            return holdfast
        case "cloud-logging":
            return _cloud_logging
        case "azure-monitor":
            return _azure_monitor
        case _:
            return None


def kubernetes(cluster: str) -> Normalise:
    """Of Kubernetes, for who knows the cluster's name."""
    from holdfast.engine.audit.sources.json_blocks import parse
    from holdfast.engine.audit.sources.kubernetes_ocsf import SHAPES, normalised
    from holdfast.engine.audit.sources.mapping import concat

    return lambda raw: concat(normalised(block, cluster) for block in parse(raw, SHAPES))


def _cloud_logging(raw: pa.LargeBinaryArray) -> pa.Table:
    from holdfast.engine.audit.sources.cloud_logging import CloudLogging
    from holdfast.engine.audit.sources.cloud_logging_ocsf import normalised
    from holdfast.engine.audit.sources.json_blocks import parse
    from holdfast.engine.audit.sources.mapping import concat

    return concat(normalised(block) for block in parse(raw, CloudLogging.shapes))


def _azure_monitor(raw: pa.LargeBinaryArray) -> pa.Table:
    from holdfast.engine.audit.sources.azure_monitor import AzureMonitor
    from holdfast.engine.audit.sources.azure_monitor_ocsf import normalised
    from holdfast.engine.audit.sources.json_blocks import parse
    from holdfast.engine.audit.sources.mapping import concat

    return concat(normalised(block) for block in parse(raw, AzureMonitor.shapes))
