"""Replication: plan, copy, verify and publish a snapshot at another site."""

from holdfast.engine.policy import ResidencyRefused, check_hop, residency_for
from holdfast.engine.replication.errors import (
    Interrupted,
    ReplicaDamaged,
    ReplicationError,
    SourceChanged,
    SourceDamaged,
    StaleSource,
)
from holdfast.engine.replication.lag import ReplicationLag, lag
from holdfast.engine.replication.replicate import Progress, ReplicationReport, replicate
from holdfast.engine.replication.reports import (
    ReadDraft,
    Refusal,
    SyncProgress,
    SyncReport,
    SyncSite,
    TargetReport,
)
from holdfast.engine.replication.sync import sync_dataset

__all__ = [
    "Interrupted",
    "Progress",
    "ReadDraft",
    "Refusal",
    "ReplicaDamaged",
    "ReplicationError",
    "ReplicationLag",
    "ReplicationReport",
    "ResidencyRefused",
    "SourceChanged",
    "SourceDamaged",
    "StaleSource",
    "SyncProgress",
    "SyncReport",
    "SyncSite",
    "TargetReport",
    "check_hop",
    "lag",
    "replicate",
    "residency_for",
    "sync_dataset",
]
