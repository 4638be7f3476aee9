"""Sites, groups, objectives and policies: read, validated, explained."""

from holdfast.engine.config.connections import Connection, ConnectionSource, EnvironmentConnections
from holdfast.engine.config.load import load_topology, topology_path
from holdfast.engine.config.models import (
    Cloud,
    Compute,
    Dataset,
    Decision,
    Detection,
    Fencing,
    Group,
    Objectives,
    Record,
    Residency,
    Roles,
    Service,
    Site,
    Topology,
    TrainingJob,
)

__all__ = [
    "Cloud",
    "Compute",
    "Connection",
    "ConnectionSource",
    "Dataset",
    "Decision",
    "Detection",
    "EnvironmentConnections",
    "Fencing",
    "Group",
    "Objectives",
    "Record",
    "Residency",
    "Roles",
    "Service",
    "Site",
    "Topology",
    "TrainingJob",
    "load_topology",
    "topology_path",
]
