"""The training side: save, elect, fork, replicate, resume."""

from holdfast.engine.checkpoint.capturing import SaveMode
from holdfast.engine.checkpoint.checkpointer import Checkpointer
from holdfast.engine.checkpoint.compression import Compression
from holdfast.engine.checkpoint.elect import Election, PassedOver, elect, newest
from holdfast.engine.checkpoint.errors import (
    CheckpointError,
    CheckpointFailed,
    CheckpointUnreadable,
    EnvironmentIncomplete,
    Fenced,
    FormatUnknown,
    NothingSelectable,
    StateTooLarge,
    StepTaken,
    StopRequested,
    TornState,
)
from holdfast.engine.checkpoint.fork import begin_run, copy_forks, fork_run
from holdfast.engine.checkpoint.format import BlobRef, CheckpointManifest
from holdfast.engine.checkpoint.guard import AlwaysGranted, Permission, WriteGuard
from holdfast.engine.checkpoint.live import LiveAdapter, LiveGroup, LiveState, LiveTensor
from holdfast.engine.checkpoint.outcome import Finished, Resumed
from holdfast.engine.checkpoint.replicate import CheckpointReceipt, read_checkpoint_receipt, replicate_checkpoint
from holdfast.engine.checkpoint.restore import load_state
from holdfast.engine.checkpoint.risk import WorkAtRisk, work_at_risk
from holdfast.engine.checkpoint.state import Adapter, TrainingState

__all__ = [
    "Adapter",
    "AlwaysGranted",
    "BlobRef",
    "CheckpointError",
    "CheckpointFailed",
    "CheckpointManifest",
    "CheckpointReceipt",
    "CheckpointUnreadable",
    "Checkpointer",
    "Compression",
    "Election",
    "EnvironmentIncomplete",
    "Fenced",
    "Finished",
    "FormatUnknown",
    "LiveAdapter",
    "LiveGroup",
    "LiveState",
    "LiveTensor",
    "NothingSelectable",
    "PassedOver",
    "Permission",
    "Resumed",
    "SaveMode",
    "StateTooLarge",
    "StepTaken",
    "StopRequested",
    "TornState",
    "TrainingState",
    "WorkAtRisk",
    "WriteGuard",
    "begin_run",
    "copy_forks",
    "elect",
    "fork_run",
    "load_state",
    "newest",
    "read_checkpoint_receipt",
    "replicate_checkpoint",
    "work_at_risk",
]
