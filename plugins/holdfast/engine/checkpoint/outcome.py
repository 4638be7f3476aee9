"""What a checkpointer hands back: where training goes on, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.checkpoint.elect import PassedOver
from holdfast.engine.checkpoint.errors import Fenced, StopRequested
from holdfast.engine.checkpoint.format import CheckpointManifest
from holdfast.engine.checkpoint.state import TrainingState


@dataclass(frozen=True, slots=True)
class Resumed:
    """What training goes on from.

    ``resume`` is "bitwise" only when this environment's fingerprint equals the checkpoint's.
    """

    step: int
    state: TrainingState
    manifest: CheckpointManifest
    resume: str
    passed_over: tuple[PassedOver, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The last checkpoint, and at which standby sites it is, read back."""

    manifest: CheckpointManifest
    replicated: dict[str, bool]


def final_state(error: BaseException | None) -> str:
    """The heartbeat's last ``state``, by what training ended with."""
    if error is None:
        return "finished"
    if isinstance(error, Fenced):
        return "fenced"
    return "stopped" if isinstance(error, StopRequested) else "failed"
