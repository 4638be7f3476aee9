"""The routine between disasters: what a pipeline does for a group at its active site, whichever that is now."""

from holdfast.engine.pipeline.active import require_active
from holdfast.engine.pipeline.datasets import NotProtected, protect_everything, publish_dataset, validate_dataset
from holdfast.engine.pipeline.failover import Asked, finish_plan, identifier, plan_or_ask, run_critical_path
from holdfast.engine.pipeline.training import TrainingFailed, TrainingLost, goes_on, start_training, training_outcome
from holdfast.engine.pipeline.watching import GroupWatch

__all__ = [
    "Asked",
    "GroupWatch",
    "NotProtected",
    "TrainingFailed",
    "TrainingLost",
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
