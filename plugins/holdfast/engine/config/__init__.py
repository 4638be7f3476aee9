"""Sites, groups, objectives and policies: read, validated, explained."""

from holdfast.engine.config.airflow import Airflow, PointInTimeRecovery
from holdfast.engine.config.compute import Compute, Placement
from holdfast.engine.config.connections import Connection, ConnectionSource, EnvironmentConnections
from holdfast.engine.config.load import load_topology, topology_path
from holdfast.engine.config.models import (
    Cloud,
    Dataset,
    Decision,
    Detection,
    Fencing,
    Group,
    Limits,
    Objectives,
    Record,
    Residency,
    Roles,
    Service,
    Site,
    Topology,
    TrainingJob,
)
from holdfast.engine.config.sync import Deletes, Filters, Sync, Verification
from holdfast.engine.config.vaults import KeepBackups, Vault, VaultKeys, VaultQueues

__all__ = [
    "Airflow",
    "Cloud",
    "Compute",
    "Connection",
    "ConnectionSource",
    "Dataset",
    "Decision",
    "Deletes",
    "Detection",
    "EnvironmentConnections",
    "Fencing",
    "Filters",
    "Group",
    "KeepBackups",
    "Limits",
    "Objectives",
    "Placement",
    "PointInTimeRecovery",
    "Record",
    "Residency",
    "Roles",
    "Service",
    "Site",
    "Sync",
    "Topology",
    "TrainingJob",
    "Vault",
    "VaultKeys",
    "VaultQueues",
    "Verification",
    "load_topology",
    "topology_path",
]
