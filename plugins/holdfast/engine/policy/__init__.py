"""Policies in Cedar: whether bytes may be stored, copied, trained on or restored somewhere; asked before they move."""

from holdfast.engine.config.residency import ResidencyRefused, residency_for
from holdfast.engine.policy.asking import (
    BACK_UP,
    COPY_CHECKPOINTS,
    DRILL_RESTORE,
    PROMOTE,
    REPLICATE,
    RESTORE,
    RESUME,
    TRAIN,
    Decision,
    Intent,
    check_hop,
    decide,
)
from holdfast.engine.policy.log import DecisionLog, DecisionNotRecorded
from holdfast.engine.policy.records import DecisionLogDamaged, DecisionRecord
from holdfast.engine.policy.request import Action, Kind, Service
from holdfast.engine.policy.shipping import Shipment
from holdfast.engine.policy.texts import check_policies, policy_documents

__all__ = [
    "BACK_UP",
    "COPY_CHECKPOINTS",
    "DRILL_RESTORE",
    "PROMOTE",
    "REPLICATE",
    "RESTORE",
    "RESUME",
    "TRAIN",
    "Action",
    "Decision",
    "DecisionLog",
    "DecisionLogDamaged",
    "DecisionNotRecorded",
    "DecisionRecord",
    "Intent",
    "Kind",
    "ResidencyRefused",
    "Service",
    "Shipment",
    "check_hop",
    "check_policies",
    "decide",
    "policy_documents",
    "residency_for",
]
