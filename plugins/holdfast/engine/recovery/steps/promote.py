"""Promote the target's recovery points: write, for everything the group protects, what the new epoch forks from."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from holdfast.engine.checkpoint import copy_forks, fork_run
from holdfast.engine.config.writers import is_written
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.interface import Evidence
from holdfast.engine.recovery.points import SnapshotPoint, find_points, still_there
from holdfast.engine.recovery.unfinished import RunPoint
from holdfast.engine.snapshot import EpochFork, begin_epoch, new_fork, write_fork
from holdfast.errors import HoldfastError

_REFRESH_SECONDS = 3.0


class Promote:
    """After it, readers of the new epoch at the target see its recovery points and nothing of a stale writer."""

    name = "promote"

    def gate(self, context: StepContext) -> None:
        context.evidence("fence")

    def run(self, context: StepContext) -> Evidence:
        # Elected during the fence. What a last straggler brought to the target since is simply not in the new lineage.
        points = context.wanted("points", lambda: find_points(context.rooms, context.plan, context.pool))
        # The source's writers are fenced only now; one of them may have retired what was elected meanwhile.
        points = replace(
            points,
            runs=tuple(still_there(context.rooms, context.plan, p) for p in points.runs),
            left=tuple(still_there(context.rooms, context.plan, p) for p in points.left),
        )
        snapshots = [context.pool.submit(_fork_snapshot, context, context.target, p) for p in points.snapshots]
        all_runs = (*points.runs, *points.left)
        forked = [context.pool.submit(_fork_run, context, context.target, p) for p in all_runs]
        runs = [_run_evidence(p, f.result()) for p, f in zip(all_runs, forked, strict=True)]
        evidence: Evidence = {
            "snapshots": [_snapshot_evidence(p, f.result()) for p, f in zip(points.snapshots, snapshots, strict=True)],
            "runs": runs[: len(points.runs)],
            "runs_left": [
                {**found, "why": p.left} for p, found in zip(points.left, runs[len(points.runs) :], strict=True)
            ],
        }
        refreshed = [context.pool.submit(_refresh, context, service) for service in context.group.services]
        evidence["witnesses"] = self._tell_witnesses(context, [f.result() for f in snapshots], all_runs)
        evidence["agents_refreshed"] = all(f.result() for f in refreshed)
        return evidence

    def _tell_witnesses(
        self, context: StepContext, forks: list[EpochFork], runs: tuple[RunPoint, ...]
    ) -> dict[str, str]:
        """The forks in the other buckets too, so that readers there know the epoch; replication repeats what fails."""
        told: dict[str, Future[None]] = {
            site: context.pool.submit(_copy_forks, context, site, forks, runs) for site in context.plan.witnesses
        }
        return {site: _outcome(future) for site, future in told.items()}


def _fork_snapshot(context: StepContext, store: ObjectStore, point: SnapshotPoint) -> EpochFork:
    plan = context.plan
    return begin_epoch(
        store,
        point.record,
        new_fork(
            point.subject,
            epoch=plan.epoch,
            parent_epoch=plan.expected_epoch,
            forked_from=point.record.snapshot_id if point.record else None,
            site=plan.target,
            plan_id=plan.plan_id,
            holder=context.rooms.holder,
            reason=plan.reason,
            created_at=context.rooms.clock.now(),
        ),
        live=is_written(context.rooms.topology, plan.group, point.subject, plan.target),
    )


def _fork_run(context: StepContext, store: ObjectStore, point: RunPoint) -> EpochFork:
    plan = context.plan
    return fork_run(
        store,
        point.run,
        epoch=plan.epoch,
        parent_epoch=plan.expected_epoch,
        election=point.election,
        site=plan.target,
        plan_id=plan.plan_id,
        holder=context.rooms.holder,
        reason=plan.reason,
        clock=context.rooms.clock,
    )


def _copy_forks(context: StepContext, site: str, forks: list[EpochFork], runs: tuple[RunPoint, ...]) -> None:
    store = context.rooms.store(site)
    for fork in forks:
        write_fork(store, f"snapshots/{fork.subject}", fork)
    for point in runs:
        copy_forks(context.target, store, point.run)


def _outcome(future: Future[None]) -> str:
    try:
        future.result()
    except HoldfastError as error:
        return str(error)
    return "told"


def _refresh(context: StepContext, service: str) -> bool:
    return context.senses.refresh(context.rooms, service, context.plan.target, timeout_seconds=_REFRESH_SECONDS)


def _snapshot_evidence(point: SnapshotPoint, fork: EpochFork) -> dict[str, Any]:
    record = point.record
    return {
        "subject": point.subject,
        "forked_from": fork.forked_from,
        "epoch": fork.epoch,
        "committed_at": record.committed_at.isoformat() if record else None,
        "objects": record.object_count if record else 0,
        "bytes": record.size_bytes if record else 0,
        "verified_by": point.verified_by,
        "passed_over": [{"snapshot": s, "reason": r} for s, r in point.passed_over],
    }


def _run_evidence(point: RunPoint, fork: EpochFork) -> dict[str, Any]:
    manifest = point.election.manifest
    return {
        "job": point.job,
        "run": point.run,
        "forked_from": fork.forked_from,
        "epoch": fork.epoch,
        "step": point.election.step,
        "resume": point.election.resume,
        "saved_at": manifest.saved_at.isoformat() if manifest else None,
        "dataset_snapshot": manifest.dataset_snapshot if manifest else None,
        "passed_over": [{"checkpoint": p.key, "reason": p.reason} for p in point.election.passed_over],
    }
