"""The reference: the same run, never interrupted, in a process of its own that writes to a scratch folder only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from holdfast.engine.compute import JobHandle, JobState, JobStatus, TrainingBackend, reference_spec
from holdfast.engine.drill.errors import ReferenceFailed
from holdfast.engine.recovery.interface import Rooms

_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Reference:
    """What the uninterrupted run ended with."""

    model_digest: str
    files: dict[str, bytes]
    seconds: float
