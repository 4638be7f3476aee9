"""Go on with the training runs at the new site, from the checkpoint the new epoch forked from."""

from __future__ import annotations

from typing import Any

from holdfast.engine.checkpoint import NothingSelectable, elect
from holdfast.engine.compute.attempts import handle_document
from holdfast.engine.config.models import NoCapacityPolicy
from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.interface import Evidence
from holdfast.engine.recovery.placing import Answer, GivenUp, NoRoom, Placed, Wanted, describe, place
from holdfast.engine.recovery.start_training import TrainingGivenUp, without_machine
from holdfast.engine.recovery.subjects import base_run, published_runs
from holdfast.errors import HoldfastError


class ResumeTraining:
    """Submits the jobs and returns their handles; whoever wants their end waits for it.

    Every placement of the new site is asked once. Where none has a machine the plan ends all the same, and says that
    the run stands still, unless the group's policy is to fail: what serves is promoted and switched before this step.

    One run that cannot be started keeps no other one waiting: all are tried, and only then is an error raised that
    trying again may mend. One that a person has to mend is recorded as the run's outcome.
    """

    name = "resume_training"

    def gate(self, context: StepContext) -> None:
        context.evidence("verify")

    def run(self, context: StepContext) -> Evidence:
        promoted = context.evidence("promote")["runs"]
        jobs: list[dict[str, Any]] = []
        failed: list[HoldfastError] = []
        for job in context.group.training:
            runs = [entry for entry in promoted if entry["job"] == job]
            if not runs:
                detail = f"no run of {base_run(context.plan.group, job)} to resume"
                jobs.append({"job": job, "run": None, "handle": None, "detail": detail})
            for entry in runs:
                try:
                    jobs.append(self._resume(context, job, entry))
                except HoldfastError as error:
                    jobs.append(self._failed(context, job, entry, error))
                    if error.transient or isinstance(error, TrainingGivenUp):
                        failed.append(error)
        if failed:
            raise failed[0]
        return {"jobs": jobs}

    def _failed(self, context: StepContext, job: str, promoted: dict[str, Any], error: HoldfastError) -> dict[str, Any]:
        said = f"not started: {error}"
        context.say(self.name, "waiting", detail=f"{promoted['run']}: {said}")
        return {
            "job": job,
            "run": promoted["run"],
            "step": promoted["step"],
            "epoch": context.plan.epoch,
            "handle": None,
            "placement": None,
            "detail": said,
            "error": error.as_dict(),
        }

    def _resume(self, context: StepContext, job: str, promoted: dict[str, Any]) -> dict[str, Any]:
        plan, topology = context.plan, context.rooms.topology
        settings = topology.job(job)
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
            election.digest,
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
        model = context.rooms.topology.job(job).model
        return run in published_runs(context.target, model, epoch=context.plan.epoch)

    def _dataset_snapshot(self, context: StepContext, dataset: str, promoted: dict[str, Any]) -> str | None:
        """What the checkpoint was trained on; a run from the start takes the dataset's recovery point."""
        trained_on: str | None = promoted["dataset_snapshot"]
        if trained_on is not None:
            return trained_on
        entry = next((e for e in context.evidence("promote")["snapshots"] if e["subject"] == dataset), None)
        return entry["forked_from"] if entry else None
