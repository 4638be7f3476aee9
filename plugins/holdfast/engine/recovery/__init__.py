"""Plans: make one, run it, resume it wherever its runner died, abort it before its epoch is committed."""

from holdfast.engine.recovery.abort import abort_plan
from holdfast.engine.recovery.errors import (
    GateClosed,
    NeedsHuman,
    NoRecoveryPoint,
    PastNoReturn,
    PlanAltered,
    PlanNotFound,
    PlanSuperseded,
    RecordsUnavailable,
    RecoveryError,
    SelfApproval,
    WrongAnswer,
)
from holdfast.engine.recovery.interface import Answer, Progress, Rooms, Senses
from holdfast.engine.recovery.journal import StepLog, StepRecord, host_boot
from holdfast.engine.recovery.plan import STEPS, Plan, load_plan, new_plan, save_plan
from holdfast.engine.recovery.protection import Protected, known_lag, protect_group
from holdfast.engine.recovery.runner import PlanResult, read_records, run_plan

__all__ = [
    "STEPS",
    "Answer",
    "GateClosed",
    "NeedsHuman",
    "NoRecoveryPoint",
    "PastNoReturn",
    "Plan",
    "PlanAltered",
    "PlanNotFound",
    "PlanResult",
    "PlanSuperseded",
    "Progress",
    "Protected",
    "RecordsUnavailable",
    "RecoveryError",
    "Rooms",
    "SelfApproval",
    "Senses",
    "StepLog",
    "StepRecord",
    "WrongAnswer",
    "abort_plan",
    "host_boot",
    "known_lag",
    "load_plan",
    "new_plan",
    "protect_group",
    "read_records",
    "run_plan",
    "save_plan",
]
