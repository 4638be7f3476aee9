"""Replication: plan, copy, verify and publish a snapshot at another site."""

from holdfast.engine.replication.errors import (
    ReplicaDamaged,
    ReplicationError,
    ResidencyRefused,
    SourceChanged,
    SourceDamaged,
    StaleSource,
)
from holdfast.engine.replication.lag import ReplicationLag, lag
from holdfast.engine.replication.replicate import Progress, ReplicationReport, replicate
from holdfast.engine.replication.residency import check_hop, residency_for

__all__ = [
    "Progress",
    "ReplicaDamaged",
    "ReplicationError",
    "ReplicationLag",
    "ReplicationReport",
    "ResidencyRefused",
    "SourceChanged",
    "SourceDamaged",
    "StaleSource",
    "check_hop",
    "lag",
    "replicate",
    "residency_for",
]
