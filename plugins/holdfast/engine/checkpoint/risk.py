"""How much training a loss of the site would cost right now."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.checkpoint.elect import newest
from holdfast.engine.checkpoint.format import CheckpointManifest
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.errors import EpochUnknownHere


@dataclass(frozen=True, slots=True)
class WorkAtRisk:
    """Committed at the source and not yet at the target. ``seconds`` is None when the target has nothing to compare."""

    steps: int
    seconds: float | None
    source_step: int
    target_step: int


def work_at_risk(source: ObjectStore, target: ObjectStore, run: str, epoch: int) -> WorkAtRisk:
    """Steps and seconds between the newest checkpoint here and the newest there, in one epoch's lineage.

    To this comes what was trained since the newest checkpoint at the source; a job's heartbeat tells its step.

    Raises:
        EpochUnknownHere: the source does not know this epoch. A target that does not has nothing of it.
    """
    here = newest(source, run, epoch=epoch)
    there: CheckpointManifest | None
    try:
        there = newest(target, run, epoch=epoch)
    except EpochUnknownHere:
        there = None
    source_step, target_step = (here.step if here else 0), (there.step if there else 0)
    seconds = (here.saved_at - there.saved_at).total_seconds() if here and there else None
    if source_step == target_step:
        seconds = 0.0
    return WorkAtRisk(
        max(0, source_step - target_step), None if seconds is None else max(0.0, seconds), source_step, target_step
    )
