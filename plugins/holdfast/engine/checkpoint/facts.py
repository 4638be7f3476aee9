"""What a checkpointer tells in its heartbeat; docs/formats/checkpoint.md lists the members."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from holdfast.engine.checkpoint.format import CheckpointManifest
from holdfast.engine.checkpoint.heartbeat import stamp
from holdfast.engine.checkpoint.replicator import ReplicaStatus


def checkpoint_facts(last: CheckpointManifest) -> dict[str, Any]:
    """The newest durable checkpoint."""
    return {
        "step": last.step,
        "epoch": last.epoch,
        "digest": last.digest,
        "at": stamp(last.saved_at),
        "model_digest": last.model_digest,
        "warnings": list(last.warnings),
    }


def replica_facts(seen: ReplicaStatus, *, trained_step: int, trained_at: datetime | None) -> dict[str, Any]:
    """How far a standby is, and what a loss of this site would cost now if it took over.

    Args:
        trained_step, trained_at: the last step done, saved or not; None: none by this process yet.
    """
    behind = max(0, trained_step - (seen.step or 0))
    seconds: float | None = None
    if seen.saved_at is not None:
        # What was trained before this process is as old as the checkpoint it went on from.
        late = (trained_at - seen.saved_at).total_seconds() if behind and trained_at else 0.0
        seconds = max(0.0, late)
    return {
        "step": seen.step,
        "at": stamp(seen.at) if seen.at else None,
        "saved_at": stamp(seen.saved_at) if seen.saved_at else None,
        "waiting": seen.waiting,
        "skipped": seen.skipped,
        "seconds": seen.seconds,
        "error": seen.error,
        "work_at_risk": {"steps": behind, "seconds": seconds},
    }
