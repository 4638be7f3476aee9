"""Open a source of the topology: the only place that knows which leaf to take."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.engine.audit.interface import AuditSource
from holdfast.engine.audit.sources.airflow_position import POSITION, Position
from holdfast.engine.config.audit import (
    AirflowSource,
    AzureMonitorSource,
    CloudLoggingSource,
    CloudTrailSource,
    HoldfastSource,
    KubernetesSource,
    Source,
)
from holdfast.engine.runtime import Runtime

#: A document that this source had in the newest seal, by its name; ``None``: it had none.
Earlier = Callable[[str], bytes | None]


def open_source(runtime: Runtime, name: str, settings: Source, earlier: Earlier = lambda _name: None) -> AuditSource:
    """A source, ready to be read.

    Args:
        name: its name in the topology.
        settings: of it.
        earlier: what the source itself noted in the newest seal, such as how far it came.

    Raises:
        ConfigError, UnknownName: a connection or site is not there.
        SourceUnreadable: what it noted cannot be read.
    """
    match settings:
        case CloudTrailSource():
            from holdfast.engine.audit.sources.cloudtrail import open_cloudtrail

            return open_cloudtrail(runtime, name, settings)
        case CloudLoggingSource():
            from holdfast.engine.audit.sources.cloud_logging import open_cloud_logging

            return open_cloud_logging(runtime, name, settings)
        case AzureMonitorSource():
            from holdfast.engine.audit.sources.azure_monitor import open_azure_monitor

            return open_azure_monitor(runtime, name, settings)
        case KubernetesSource():
            from holdfast.engine.audit.sources.kubernetes import open_kubernetes

            return open_kubernetes(runtime, name, settings)
        case AirflowSource():
            from holdfast.engine.audit.sources.airflow import open_airflow

            noted = earlier(POSITION)
            return open_airflow(runtime, name, settings, position=Position.from_bytes(noted) if noted else None)
        case HoldfastSource():
            from holdfast.engine.audit.sources.holdfast import open_holdfast

            return open_holdfast(runtime, name, settings)
