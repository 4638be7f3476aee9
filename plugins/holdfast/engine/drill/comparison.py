"""The finished model against an uninterrupted run's, and the service's answers against that model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast.engine.drill.log import DrillState
from holdfast.engine.drill.reference import Reference, run_references
from holdfast.engine.recovery.interface import Evidence
from holdfast.engine.snapshot import iter_selectable

_ANSWER_FOR_SECONDS = 20.0


def compare(state: DrillState, references: Callable[[], Mapping[str, Reference]] | None = None) -> Evidence:
    """Every job's finished model against an uninterrupted run's, and the services' answers against those models'.

    Args:
        references: gives the reference runs' results by run when they were begun before; by default they are run now.
    """

    def work() -> Evidence:
        found = references() if references is not None else run_references(state)
        jobs = [_job(job, found.get(job["run"])) for job in state.evidence("await_training")["jobs"]]
        same = [job["identical"] for job in jobs]
        first = jobs[0] if jobs else {"digest": None, "reference_digest": None, "reference_seconds": None}
        models = {job["run"]: state.rooms.topology.job(job["job"]).model for job in jobs}
        by_model = {
            model: _served(state, model, [run for run in models if models[run] == model]) for model in models.values()
        }
        digests = {job["run"]: job["digest"] for job in jobs}
        services = []
        for service in state.rooms.topology.group(state.plan.group).services:
            name = by_model.get(state.rooms.topology.service(service).model, "")
            services.append(_answers(state, service, found.get(name), digests.get(name)))
        return {
            "model": {
                "digest": first["digest"],
                "reference_digest": first["reference_digest"],
                "identical": False if False in same else None if not same or None in same else True,
                "reference_seconds": first["reference_seconds"],
                "by_job": jobs,
            },
            "services": services,
        }

    return state.once("compare_model", work)


def _served(state: DrillState, model: str, runs: list[str]) -> str:
    """Which of these runs published last: its model is the one that answers."""
    published = iter_selectable(state.rooms.store(state.plan.target), model, epoch=state.plan.epoch) if runs[1:] else ()
    return next((name for one in published if (name := one.labels.get("run", "")) in runs), runs[-1])


def _job(job: Mapping[str, Any], reference: Reference | None) -> dict[str, Any]:
    digest, other = job.get("model_digest"), reference.model_digest if reference else None
    return {
        "job": job["job"],
        "run": job["run"],
        "digest": digest,
        "reference_digest": other,
        "identical": None if digest is None or other is None else digest == other,
        "reference_seconds": reference.seconds if reference else None,
    }


def _answers(state: DrillState, service: str, reference: Reference | None, digest: str | None) -> dict[str, Any]:
    """Ask through DNS until the service has the finished model, then compare its answers with the reference's."""
    expected = state.senses.reference(state.rooms, service, reference.files) if reference else None
    clock = state.rooms.clock
    until = clock.monotonic() + _ANSWER_FOR_SECONDS
    while True:
        answer = state.senses.ask(state.rooms, service, timeout_seconds=2.0)
        equal = None if expected is None or answer.predictions is None else answer.predictions == expected
        if equal or clock.monotonic() >= until or (expected is None and answer.model == digest):
            return {
                "service": service,
                "answers_equal": equal,
                "site": answer.site,
                "epoch": answer.epoch,
                "model": answer.model,
                "answers": list(answer.predictions or ()),
                "refused": answer.refused,
                "expected": list(expected) if expected is not None else None,
            }
        clock.sleep(0.2)
