"""What a sync would do, decided before a byte moves: changes, plans per target, shards."""

from holdfast.engine.replication.plan.changes import plan_changes
from holdfast.engine.replication.plan.errors import PathsCollide, PlanConflict, PlanDamaged
from holdfast.engine.replication.plan.plan import COPIES, SyncPlan, TargetPlan, plan_sync
from holdfast.engine.replication.plan.schema import ACTIONS, Action, Reason, rows_of
from holdfast.engine.replication.plan.shards import (
    RESULTS,
    MergedResults,
    Shard,
    load_index,
    load_result,
    load_shard,
    merge_results,
    split,
    store_result,
    store_shards,
)
from holdfast.engine.replication.plan.stored import load_plan, store_plan

__all__ = [
    "ACTIONS",
    "COPIES",
    "RESULTS",
    "Action",
    "MergedResults",
    "PathsCollide",
    "PlanConflict",
    "PlanDamaged",
    "Reason",
    "Shard",
    "SyncPlan",
    "TargetPlan",
    "load_index",
    "load_plan",
    "load_result",
    "load_shard",
    "merge_results",
    "plan_changes",
    "plan_sync",
    "rows_of",
    "split",
    "store_plan",
    "store_result",
    "store_shards",
]
