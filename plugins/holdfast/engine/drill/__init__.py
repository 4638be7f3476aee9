"""Drills: a plan run under a chosen fault with a steady-state hypothesis, measured, rolled back and reported."""

from holdfast.engine.drill.comparison import compare
from holdfast.engine.drill.conclude import conclude
from holdfast.engine.drill.errors import (
    DrillError,
    DrillNotFound,
    FaultFailed,
    ReferenceFailed,
    SteadyStateFailed,
    TrainingFailed,
)
from holdfast.engine.drill.interface import FaultInjector
from holdfast.engine.drill.journal import DrillJournal, DrillStatus, Verdicts
from holdfast.engine.drill.log import PHASES, DrillState, open_drill
from holdfast.engine.drill.phases import (
    await_training,
    detect,
    fail_over,
    inject,
    lift,
    look_again,
    measure,
    prepare,
    resume_training,
)
from holdfast.engine.drill.scenarios import SCENARIOS, Scenario, find_scenario

__all__ = [
    "PHASES",
    "SCENARIOS",
    "DrillError",
    "DrillJournal",
    "DrillNotFound",
    "DrillState",
    "DrillStatus",
    "FaultFailed",
    "FaultInjector",
    "ReferenceFailed",
    "Scenario",
    "SteadyStateFailed",
    "TrainingFailed",
    "Verdicts",
    "await_training",
    "compare",
    "conclude",
    "detect",
    "fail_over",
    "find_scenario",
    "inject",
    "lift",
    "look_again",
    "measure",
    "open_drill",
    "prepare",
    "resume_training",
]
