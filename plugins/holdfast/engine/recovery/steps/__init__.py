"""The steps of a plan, one file each."""

from holdfast.engine.recovery.context import Step
from holdfast.engine.recovery.steps.commit_epoch import CommitEpoch
from holdfast.engine.recovery.steps.decide import Decide
from holdfast.engine.recovery.steps.detect import Detect
from holdfast.engine.recovery.steps.fence import Fence
from holdfast.engine.recovery.steps.promote import Promote
from holdfast.engine.recovery.steps.quiesce import Quiesce
from holdfast.engine.recovery.steps.resume_training import ResumeTraining
from holdfast.engine.recovery.steps.switch_traffic import SwitchTraffic
from holdfast.engine.recovery.steps.verify import Verify

_ALL: tuple[Step, ...] = (
    Detect(),
    Decide(),
    Quiesce(),
    CommitEpoch(),
    Fence(),
    Promote(),
    SwitchTraffic(),
    Verify(),
    ResumeTraining(),
)
STEP_BY_NAME: dict[str, Step] = {step.name: step for step in _ALL}
