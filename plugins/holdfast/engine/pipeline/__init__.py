"""The routine between disasters: what a pipeline does for a group at its active site, whichever that is now."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.engine.pipeline.active import require_active
    from holdfast.engine.pipeline.datasets import NotProtected, protect_everything, publish_dataset, validate_dataset
    from holdfast.engine.pipeline.failover import (
        Asked,
        approve_plan,
        finish_plan,
        identifier,
        plan_or_ask,
        run_critical_path,
    )
    from holdfast.engine.pipeline.training import (
        TrainingFailed,
        TrainingLost,
        goes_on,
        start_training,
        training_outcome,
    )
    from holdfast.engine.pipeline.watching import GroupWatch

__all__ = [
    "Asked",
    "GroupWatch",
    "NotProtected",
    "TrainingFailed",
    "TrainingLost",
    "approve_plan",
    "finish_plan",
    "goes_on",
    "identifier",
    "plan_or_ask",
    "protect_everything",
    "publish_dataset",
    "require_active",
    "run_critical_path",
    "start_training",
    "training_outcome",
    "validate_dataset",
]

# Lazy (PEP 562): a process that makes a backup need not import failovers and trainings first.
_LAZY = {
    "Asked": "failover",
    "GroupWatch": "watching",
    "NotProtected": "datasets",
    "TrainingFailed": "training",
    "TrainingLost": "training",
    "approve_plan": "failover",
    "finish_plan": "failover",
    "goes_on": "training",
    "identifier": "failover",
    "plan_or_ask": "failover",
    "protect_everything": "datasets",
    "publish_dataset": "datasets",
    "require_active": "active",
    "run_critical_path": "failover",
    "start_training": "training",
    "training_outcome": "training",
    "validate_dataset": "datasets",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
