"""What was lost: measured at the old site once it can be read again, never guessed.

Data is lost when the old site had committed it before the fault and the new epoch does not go on from it. Training
is lost from the step the old job had reached at the fault down to the step the new epoch resumed from.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from holdfast.engine.compute.interface import JobState
from holdfast.engine.drill.checkpoints import list_checkpoints
from holdfast.engine.drill.log import DrillState
from holdfast.engine.recovery.subjects import snapshot_subjects
from holdfast.engine.snapshot import CommitRecord, diff, find_record, load_manifest, records
from holdfast.errors import HoldfastError

#: Where a job does not go on: what it had reached is what it left. A job that is lost may have got further.
_ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.FENCED, JobState.STOPPED})


def measure_loss(state: DrillState, promoted: dict[str, Any], *, fault_at: datetime) -> dict[str, Any]:
    """Seconds, objects, bytes and training steps lost; each ``None`` when the old site does not tell.

    Args:
        promoted: the evidence of the plan's step ``promote``.
        fault_at: when the fault went in; what the old site wrote later was never promised to anyone.
    """
    subjects = [
        _guarded(_snapshot_loss, state, entry, fault_at)
        for entry in promoted["snapshots"]
        if entry["subject"] in snapshot_subjects(state.rooms.topology, state.plan.group)
    ]
    runs = [_guarded(_run_loss, state, entry, fault_at) for entry in promoted["runs"]]
    return {
        "seconds": _worst([*subjects, *runs], "seconds"),
        "objects": _total(subjects, "objects"),
        "bytes": _total(subjects, "bytes"),
        "training_steps": _total(runs, "training_steps"),
        "by_subject": subjects,
        "by_run": runs,
        "how": "the old site's bucket, read after the fault was lifted, against what the new epoch forked from",
    }


def _guarded(measure: Any, state: DrillState, entry: dict[str, Any], fault_at: datetime) -> dict[str, Any]:
    name = entry.get("subject") or entry.get("run")
    try:
        return {"name": name, **measure(state, entry, fault_at)}
    except HoldfastError as error:
        return {
            "name": name,
            "seconds": None,
            "objects": None,
            "bytes": None,
            "training_steps": None,
            "unknown": str(error),
        }


def _snapshot_loss(state: DrillState, entry: dict[str, Any], fault_at: datetime) -> dict[str, Any]:
    source = state.rooms.store(state.plan.source)
    there = [
        r
        for r in records(source, entry["subject"])
        if r.epoch == state.plan.expected_epoch and r.site == state.plan.source and r.committed_at <= fault_at
    ]
    promoted = entry["forked_from"]
    newest = there[-1] if there else None
    if newest is None or newest.snapshot_id == promoted:
        return {"seconds": 0.0, "objects": 0, "bytes": 0, "newest_at_source": promoted}
    kept = find_record(source, entry["subject"], promoted) if promoted else None
    if kept is not None and kept.committed_at >= newest.committed_at:
        return {"seconds": 0.0, "objects": 0, "bytes": 0, "newest_at_source": newest.snapshot_id}
    lost_objects, lost_bytes = _lost(source, newest, kept)
    since = next(
        (r.committed_at for r in there if kept is None or r.committed_at > kept.committed_at), newest.committed_at
    )
    return {
        "seconds": max(0.0, (fault_at - since).total_seconds()),
        "objects": lost_objects,
        "bytes": lost_bytes,
        "newest_at_source": newest.snapshot_id,
    }


def _lost(source: Any, newest: CommitRecord, kept: CommitRecord | None) -> tuple[int, int]:
    ours = load_manifest(source, newest)
    change = diff(ours, load_manifest(source, kept) if kept else None)
    return change.copy_objects, change.copy_bytes


def _run_loss(state: DrillState, entry: dict[str, Any], fault_at: datetime) -> dict[str, Any]:
    source = state.rooms.store(state.plan.source)
    saved = [m for m in list_checkpoints(source, entry["run"]) if m.epoch == state.plan.expected_epoch]
    before = [m for m in saved if m.saved_at <= fault_at]
    durable = max((m.step for m in before), default=0)
    jobs: list[dict[str, Any]] = state.evidence("inject").get("jobs", [])
    job = next((j for j in jobs if j.get("run") == entry["run"]), {})
    reached = job.get("step")
    at_fault = max(durable, reached or 0)
    # How far a job had got that was not heard of is unknown: its newest checkpoint is no upper bound.
    known = reached is not None or job.get("state") in _ENDED
    steps = max(0, at_fault - entry["step"]) if known else None
    saved_at = datetime.fromisoformat(entry["saved_at"]) if entry["saved_at"] else None
    seconds = 0.0 if steps == 0 else None
    if steps and saved_at is not None:
        seconds = max(0.0, (fault_at - saved_at).total_seconds())
    return {
        "seconds": seconds,
        "training_steps": steps,
        "resumed_from_step": entry["step"],
        "step_at_fault": reached,
        "job_at_fault": job.get("state"),
        "durable_step_at_fault": durable,
        "wasted_after_fault_steps": max(0, max((m.step for m in saved), default=0) - at_fault),
    }


def _worst(parts: list[dict[str, Any]], key: str) -> float | None:
    values = [part.get(key) for part in parts]
    return None if not values or None in values else max(v for v in values if v is not None)


def _total(parts: list[dict[str, Any]], key: str) -> int | None:
    values = [part.get(key) for part in parts]
    return None if None in values else sum(v for v in values if v is not None)
