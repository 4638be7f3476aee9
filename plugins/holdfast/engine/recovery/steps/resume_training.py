"""Go on with the training runs at the new site, from the checkpoint the new epoch forked from."""

from __future__ import annotations

from typing import Any

from holdfast.engine.checkpoint import NothingSelectable, elect
from holdfast.engine.compute.attempts import handle_document
from holdfast.engine.config.models import NoCapacityPolicy
from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.interface import Evidence
from holdfast.engine.recovery.placing import Answer, GivenUp, NoRoom, Placed, Wanted, describe, place
from holdfast.engine.recovery.start_training import without_machine
from holdfast.engine.recovery.subjects import base_run
from holdfast.engine.snapshot import latest


class ResumeTraining:
    """Submits the jobs and returns their handles; whoever wants their end waits for it.

    Every placement of the new site is asked once. Where none has a machine the plan ends all the same, and says that
    the run stands still, unless the group's policy is to fail: what serves is promoted and switched before this step.
    """

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
        try:
            election = elect(context.target, run, epoch=plan.epoch, site=plan.target)
        except NothingSelectable as error:
            # What serves is promoted; the run waits for its checkpoint, and is not started from zero instead.
            context.say(self.name, "waiting", detail=f"{run}: {error}")
            return {"job": job, "run": run, "handle": None, "detail": f"it does not train: {error}"}
        if election.step >= settings.steps and self._is_published(context, job, run):
            return {"job": job, "run": run, "step": election.step, "handle": None, "detail": "it had ended before"}
        wanted = Wanted(
            plan.group,
            job,
            run,
            plan.epoch,
            plan.target,
            self._dataset_snapshot(context, settings.dataset, promoted),
        )

        def say(told: str) -> None:
            context.say(self.name, "waiting", detail=f"{run}: {told}")

        found = place(context.rooms, wanted, say=say)
        return {
            "job": job,
            "run": run,
            "step": election.step,
            "epoch": plan.epoch,
            "dataset_snapshot": wanted.dataset_snapshot,
            **self._outcome(context, wanted, found),
        }

    def _outcome(self, context: StepContext, wanted: Wanted, found: Answer) -> dict[str, Any]:
        if isinstance(found, Placed):
            placement = found.placement.model_dump(mode="json", exclude_none=True)
            handle = handle_document(found.handle)
            return {
                "detail": "submitted",
                "attempt": found.attempt,
                "placement": placement,
                "move_on_at": None if found.move_on_at is None else found.move_on_at.isoformat(),
                "handle": handle,
            }
        if isinstance(found, GivenUp):
            # The trainer's own end is no reason to leave the group half moved.
            said = f"given up: {found.reason}; {found.counts}"
            context.say(self.name, "waiting", detail=f"{wanted.run}: {said}")
            return {
                "detail": said,
                "attempt": found.attempt,
                "placement": found.placement.model_dump(mode="json", exclude_none=True),
                "handle": None if found.handle is None else handle_document(found.handle),
            }
        return self._degraded(context, wanted, found)

    def _degraded(self, context: StepContext, wanted: Wanted, none: NoRoom) -> dict[str, Any]:
        """Raises TrainingGivenUp: the group's policy is to fail."""
        policy = context.group.no_capacity
        if policy is NoCapacityPolicy.FAIL:
            raise without_machine(context.rooms, wanted.group, wanted.run, wanted.site, none, epoch=wanted.epoch)
        later = "to be resumed later" if policy is NoCapacityPolicy.WAIT else "the group goes on without it"
        said = f"degraded: {none.reason}; {wanted.run} does not train, {later}"
        context.say(self.name, "waiting", detail=said)
        return {
            "detail": said,
            "attempt": none.attempt,
            "placement": None,
            "handle": None,
            "degraded": {
                "policy": str(policy),
                "reason": none.reason,
                "tried": [{"placement": describe(placement), "answer": answer} for placement, answer in none.tried],
                "ask_again_at": None if none.ask_again_at is None else none.ask_again_at.isoformat(),
            },
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
