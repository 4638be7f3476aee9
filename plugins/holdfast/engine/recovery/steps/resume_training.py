"""Go on with the training runs at the new site, from the checkpoint the new epoch forked from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from holdfast.engine.checkpoint import elect
from holdfast.engine.compute import job_spec
from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.interface import Evidence
from holdfast.engine.recovery.subjects import base_run
from holdfast.engine.snapshot import latest


class ResumeTraining:
    """Submits the jobs and returns their handles; whoever wants their end waits for it."""

    name = "resume_training"

    def gate(self, context: StepContext) -> None:
        context.evidence("verify")

    def run(self, context: StepContext) -> Evidence:
        promoted = {entry["job"]: entry for entry in context.evidence("promote")["runs"]}
        return {"jobs": [self._resume(context, job, promoted.get(job)) for job in context.group.training]}

    def _resume(self, context: StepContext, job: str, promoted: dict[str, Any] | None) -> dict[str, Any]:
        plan, topology = context.plan, context.rooms.topology
        settings = topology.job(job)
        if promoted is None:
            return {
                "job": job,
                "run": None,
                "handle": None,
                "detail": f"no run of {base_run(plan.group, job)} to resume",
            }
        run = promoted["run"]
        election = elect(context.target, run, epoch=plan.epoch, site=plan.target)
        if election.step >= settings.steps and self._is_published(context, job, run):
            return {"job": job, "run": run, "step": election.step, "handle": None, "detail": "it had ended before"}
        spec = job_spec(
            topology,
            plan.group,
            job,
            run=run,
            epoch=plan.epoch,
            site=plan.target,
            dataset_snapshot=self._dataset_snapshot(context, settings.dataset, promoted),
            environ=context.rooms.environ,
        )
        handle = context.rooms.backend(plan.target).submit(spec)
        return {
            "job": job,
            "run": run,
            "step": election.step,
            "epoch": plan.epoch,
            "detail": "submitted",
            "dataset_snapshot": spec.environment.get("HOLDFAST_DATASET_SNAPSHOT"),
            "handle": {**asdict(handle), "reference": dict(handle.reference)},
        }

    def _is_published(self, context: StepContext, job: str, run: str) -> bool:
        record = latest(context.target, context.rooms.topology.job(job).model, epoch=context.plan.epoch)
        return record is not None and record.labels.get("run") == run

    def _dataset_snapshot(self, context: StepContext, dataset: str, promoted: dict[str, Any]) -> str | None:
        """What the checkpoint was trained on; a run from the start takes the dataset's recovery point."""
        trained_on: str | None = promoted["dataset_snapshot"]
        if trained_on is not None:
            return trained_on
        entry = next((e for e in context.evidence("promote")["snapshots"] if e["subject"] == dataset), None)
        return entry["forked_from"] if entry else None
