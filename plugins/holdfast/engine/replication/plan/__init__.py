"""What a sync would do, decided before a byte moves: changes, plans per target, shards."""

from holdfast.engine.replication.plan.changes import plan_changes
from holdfast.engine.replication.plan.errors import PathsCollide, PlanConflict, PlanDamaged
from holdfast.engine.replication.plan.schema import ACTIONS, Action, Reason, rows_of

__all__ = [
    "ACTIONS",
    "Action",
    "PathsCollide",
    "PlanConflict",
    "PlanDamaged",
    "Reason",
    "plan_changes",
    "rows_of",
]
