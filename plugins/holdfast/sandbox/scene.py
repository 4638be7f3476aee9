"""The story's first scene: from a fresh sandbox to a group at work, in steps that may each be run again.

Register, data, first model, traffic record, replicas, and a training run under way at the active site. It uses the
engine as a pipeline does; only the market data comes from the example beside the topology.
"""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.engine.authority import EpochConflict, EpochState
from holdfast.engine.compute import JobState
from holdfast.engine.pipeline import publish_dataset, require_active, start_training
from holdfast.engine.recovery.jobs import job_status
from holdfast.engine.recovery.protection import Protected, protect_group
from holdfast.engine.recovery.senses import RealSenses
from holdfast.engine.recovery.subjects import base_run, current_run, run_name
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import latest
from holdfast.sandbox.errors import SandboxError

_FIRST_STEPS = 40
#: A slow emulator can fail a job at its start; an orchestrator would start it again too.
_ATTEMPTS = 3
_TRAIN_SECONDS = 120.0
_ANSWER_SECONDS = 60.0
_LOOK_SECONDS = 0.2

Say = Callable[[str], object]


class SceneNotSet(SandboxError):
    """Something did not come to be what the story needs."""


@dataclass(frozen=True)
class Scene:
    """A group at work."""

    group: str
    state: EpochState
    runs: Mapping[str, str]


def set_scene(runtime: Runtime, group: str, *, say: Say = lambda _line: None) -> Scene:
    """Bring a group to work at its active site. Everything that is done already is left as it is.

    Raises:
        SceneNotSet: a step did not come to its end in time.
        HoldfastError: a site refused.
    """
    state = begin_authority(runtime, group)
    say(f"{state.active_site} is active in epoch {state.epoch}")
    say(f"{seed_data(runtime, group)} objects of market data at {state.active_site}")
    for dataset in runtime.topology.group(group).datasets:
        say(f"snapshot {publish_dataset(runtime, group, dataset).snapshot_id} of {dataset}")
    for job, digest in train_first_models(runtime, group).items():
        say(f"first model of {job}: {digest}")
    create_records(runtime, group)
    protected = protect(runtime, group)
    say(f"{len(protected)} replicas verified")
    await_service(runtime, group)
    say("the service answers through DNS")
    runs = train(runtime, group)
    for job, run in runs.items():
        say(f"{job} trains as {run}")
    return Scene(group, state, runs)


def begin_authority(runtime: Runtime, group: str) -> EpochState:
    """Epoch 1 with the site the topology names, unless the group has an epoch."""
    authority = runtime.authority(group)
    state = authority.read(group)
    if state is not None:
        return state
    try:
        return authority.advance(
            group,
            expected_epoch=0,
            active_site=runtime.topology.group(group).sites.active,
            plan_id=f"init-{uuid.uuid4().hex[:12]}",
            reason="the group's first epoch",
        )
    except EpochConflict as conflict:
        if conflict.current is None:
            raise
        return conflict.current


def seed_data(runtime: Runtime, group: str) -> int:
    """Put the example's market data into the active site's bucket; how many objects it has."""
    state = require_active(runtime, group)
    source = runtime.topology.beside("training/prepare_data.py")
    spec = importlib.util.spec_from_file_location("holdfast_example_data", source)
    if spec is None or spec.loader is None or not source.is_file():
        raise SceneNotSet(
            "the example's data is not there", where=str(source), expected="prepare_data.py", found="nothing"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    store = runtime.store(state.active_site)
    put: Any = module.put
    return sum(len(put(store, runtime.topology.dataset(d).path)) for d in runtime.topology.group(group).datasets)


def train_first_models(runtime: Runtime, group: str) -> dict[str, str]:
    """A short run of each job, so that the service has something to answer with."""
    state = require_active(runtime, group)
    short = Runtime(
        runtime.topology,
        runtime.connections,
        clock=runtime.clock,
        holder=runtime.holder,
        environ={**runtime.environ, "HOLDFAST_STEPS": str(_FIRST_STEPS), "HOLDFAST_STEP_SECONDS": "0"},
    )
    digests = {}
    for job in runtime.topology.group(group).training:
        model = runtime.topology.job(job).model
        record = latest(runtime.store(state.active_site), model, epoch=state.epoch)
        if record is None:
            for attempt in range(1, _ATTEMPTS + 1):
                run = start_training(short, group, job, run=base_run(group, job), again_after=attempt - 1).run
                if _ended_well(runtime, job, run, state, last=attempt == _ATTEMPTS):
                    break
            record = latest(runtime.store(state.active_site), model, epoch=state.epoch)
        if record is None:
            raise SceneNotSet(
                "the first model was not published", where=job, expected=f"a snapshot of {model}", found="none"
            )
        digests[job] = record.labels.get("model_digest", record.snapshot_id)
    return digests


def _ended_well(runtime: Runtime, job: str, run: str, state: EpochState, *, last: bool) -> bool:
    until = runtime.clock.monotonic() + _TRAIN_SECONDS
    while runtime.clock.monotonic() < until:
        status = job_status(runtime, state.active_site, run, state.epoch)
        if status is not None and status.state is JobState.SUCCEEDED:
            return True
        if status is not None and status.state not in (JobState.RUNNING, JobState.PENDING):
            if not last:
                return False
            raise SceneNotSet(
                "the first training failed",
                where=f"run {run}",
                expected="succeeded",
                found=f"{status.state}: {status.detail}",
                fix="Read the job's log in the state folder",
            )
        runtime.clock.sleep(_LOOK_SECONDS)
    raise SceneNotSet(
        "the first training did not end",
        where=f"run {run} of {job}",
        expected=f"its end in {_TRAIN_SECONDS:.0f} s",
        found="a job that still runs",
    )


def create_records(runtime: Runtime, group: str) -> None:
    """Each service's traffic record, on the active site in its epoch."""
    state = require_active(runtime, group)
    for service in runtime.topology.group(group).services:
        runtime.traffic(service).switch(state.active_site, epoch=state.epoch)


def protect(runtime: Runtime, group: str) -> tuple[Protected, ...]:
    """Everything at every other site. Raises SceneNotSet when something is not."""
    done = protect_group(runtime, group, require_active(runtime, group))
    left = [f"{one.subject} → {one.target}: {one.detail}" for one in done if not one.ok]
    if left:
        raise SceneNotSet(
            "not everything could be replicated", where=group, expected="a replica everywhere", found="; ".join(left)
        )
    return done


def await_service(runtime: Runtime, group: str) -> None:
    """Until every service answers its golden set through DNS."""
    senses, until = RealSenses(), runtime.clock.monotonic() + _ANSWER_SECONDS
    for service in runtime.topology.group(group).services:
        while (answer := senses.ask(runtime, service, timeout_seconds=2.0)).predictions is None:
            if runtime.clock.monotonic() > until:
                raise SceneNotSet(
                    "the service does not answer", where=service, expected="predictions", found=answer.refused
                )
            runtime.clock.sleep(_LOOK_SECONDS)


def train(runtime: Runtime, group: str) -> dict[str, str]:
    """A run of each job at the active site, under way and with a checkpoint at a standby."""
    state = require_active(runtime, group)
    runs = {}
    for job in runtime.topology.group(group).training:
        run = (
            _running(runtime, group, job, state)
            or start_training(runtime, group, job, run=run_name(group, job, runtime.clock.now())).run
        )
        _until_checkpointed(runtime, group, run)
        runs[job] = run
    return runs


def _running(runtime: Runtime, group: str, job: str, state: EpochState) -> str | None:
    run = current_run(runtime.store(state.active_site), group, job, epoch=state.epoch)
    status = job_status(runtime, state.active_site, run, state.epoch) if run else None
    return run if status is not None and status.state is JobState.RUNNING else None


def _until_checkpointed(runtime: Runtime, group: str, run: str) -> None:
    state = require_active(runtime, group)
    settings = runtime.topology.group(group)
    standbys = [s for s in (settings.sites.active, *settings.sites.standby) if s != state.active_site]
    until = runtime.clock.monotonic() + _TRAIN_SECONDS
    while not all(any(True for _ in runtime.store(s).list(f"runs/{run}/checkpoints/")) for s in standbys):
        if runtime.clock.monotonic() > until:
            raise SceneNotSet(
                "no checkpoint came to the standby", where=run, expected="one at each standby", found="none"
            )
        runtime.clock.sleep(_LOOK_SECONDS)
