"""Open a source of the topology: the only place that knows which leaf to take."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

from holdfast.engine.audit.interface import AuditSource
from holdfast.engine.config.audit import Source
from holdfast.engine.runtime import Runtime

#: A document that this source had in the newest seal, by its name; ``None``: it had none.
Earlier = Callable[[str], bytes | None]
#: By kind: the leaf, which has ``open_<leaf>(runtime, name, settings, earlier)``.
_LEAVES: Mapping[str, str] = {
    "cloudtrail": "cloudtrail",
    "cloud-logging": "cloud_logging",
    "azure-monitor": "azure_monitor",
    "kubernetes": "kubernetes",
    "airflow": "airflow",
    "holdfast": "holdfast",
}


def open_source(runtime: Runtime, name: str, settings: Source, earlier: Earlier = lambda _name: None) -> AuditSource:
    """A source, ready to be read.

    Args:
        name: its name in the topology.
        settings: of it.
        earlier: what the source itself noted in the newest seal, such as how far it came.

    Raises:
        ConfigError, UnknownName: a connection or site is not there.
    """
    leaf = _LEAVES[settings.kind]
    module = importlib.import_module(f"holdfast.engine.audit.sources.{leaf}")
    source: AuditSource = getattr(module, f"open_{leaf}")(runtime, name, settings, earlier)
    return source
