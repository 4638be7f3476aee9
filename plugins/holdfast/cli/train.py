"""``holdfast train``: start training, look at it, go on with it, and check what it saved; without Airflow."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import Annotated, Any

import typer

from holdfast.cli import train_tables as show
from holdfast.cli.output import JsonOption, TopologyOption, console, errors, print_json, reports_errors
from holdfast.cli.train_progress import Watching, leaving
from holdfast.engine.compute import ENDED, JobState, JobStatus
from holdfast.engine.pipeline import (
    TrainingLost,
    goes_on,
    require_active,
    resuming,
    start_training,
    stopping,
    training_outcome,
    training_status,
)
from holdfast.engine.pipeline import checkpoints as saved
from holdfast.engine.pipeline.runs import check_run_name, require_job, require_run
from holdfast.engine.recovery import waiting
from holdfast.engine.recovery.start_training import NoMachine, StartedJob
from holdfast.engine.recovery.subjects import run_name
from holdfast.engine.runtime import Runtime
from holdfast.errors import HoldfastError

app = typer.Typer(
    help="Training at the active site: run, status, resume, stop, checkpoints, verify.",
    no_args_is_help=True,
    epilog="Exit codes: 0 done, 1 failed, 2 bad input, 3 refused by a rule, 4 no majority, 5 a checkpoint is damaged, "
    "6 there is nothing to verify, 7 no machine, or the job ended without a result and may be started again, "
    "130 Ctrl-C: the job goes on.",
)

DAMAGED, NOTHING, LEFT = 5, 6, 130
_TELL_SECONDS = 30.0

GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="The protection group.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="One of the group's training jobs.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]
RunOption = Annotated[str | None, typer.Option("--run", help="The run; by default the job's newest.")]
OwnerOption = Annotated[str | None, typer.Option("--group", help="Whose run it is, where its name does not say so.")]
SiteOption = Annotated[str | None, typer.Option("--site", help="One site; by default all that hold checkpoints.")]
PollOption = Annotated[float, typer.Option("--poll", min=0.05, help="Seconds between two looks.")]


@app.command("run")
@reports_errors
def run(
    group: GroupArgument,
    job: JobArgument,
    name: Annotated[
        str | None, typer.Option("--run", help="Name of the run: a new one, or one to find; by default a new one.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show how it gets on until it ends.")] = False,
    poll: PollOption = 1.0,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a run at the active site, or find it there: never two writers.

    A machine that is lost is replaced, and a placement without one is followed by the next, as the job's placements and
    its recovery strategy say. With --wait that goes on until the run ends, or nothing helps; without, one call goes
    through the placements once.

    With --wait, Ctrl-C ends the waiting only. With --json, progress goes to stderr and stdout has one document.

    Exit codes: 0 started (with --wait: ended well), 1 the job failed by itself or another machine would not help, 2 bad
    input, 3 refused by a rule, 4 no majority, 7 no machine, or the job ended without a result and may be started again,
    130 Ctrl-C: the job goes on.
    """
    runtime = Runtime.from_environment(topology)
    require_job(runtime.topology, group, job)
    chosen = name or run_name(group, job, runtime.clock.now())
    if not wait:
        started = start_training(runtime, group, job, run=chosen, say=_tell)
        state = _state(runtime, started)
        if as_json:
            print_json({**show.started_facts(started), "state": state})
        else:
            console.print(show.started_text(started, state), markup=False)
            console.print(f"Look at it with `holdfast train status {group} {job} --run {chosen}`.", markup=False)
        return
    last, outcome = _to_its_end(runtime, group, job, chosen, poll)
    if outcome is None:
        if as_json:
            facts = {"run": chosen, "site": None} if last is None else show.started_facts(last)
            print_json({**facts, "state": "left without a machine" if last is None else "left running"})
        errors.print(
            "\nNothing runs." if last is None else "\nThe job goes on.",
            markup=False,
        )
        errors.print(
            f"`holdfast train run {group} {job} --run {chosen} --wait` waits for it again; "
            f"`holdfast train status {group} {job} --run {chosen}` looks at it.",
            markup=False,
        )
        raise typer.Exit(LEFT)
    if as_json:
        print_json(outcome)
    else:
        show.print_outcome(outcome)


@app.command("status")
@reports_errors
def status(
    group: GroupArgument,
    job: JobArgument,
    name: RunOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """How a run stands: its job, its heartbeat, what is durable, and what a loss of the site would cost per standby.

    Exit codes: 0 all of it is known, 1 something is not (it says what), 2 bad input or no such run, 4 no majority.
    """
    runtime = Runtime.from_environment(topology)
    found = training_status.training_status(runtime, group, job, run=name)
    if as_json:
        print_json(found)
    else:
        show.print_status(found)
    if found.problems:
        raise typer.Exit(1)


@app.command("resume")
@reports_errors
def resume(
    group: GroupArgument,
    job: JobArgument,
    name: RunOption = None,
    tell_seconds: Annotated[
        float, typer.Option("--tell-seconds", min=0.0, help="How long to wait for the job's word on what it resumed.")
    ] = _TELL_SECONDS,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a run again from the checkpoint that is elected at the active site; a job that runs is left alone.

    Whether the resume is bitwise is the job's own word: only there its environment is known.

    Exit codes: 0 it runs (or had ended well), 1 failed, 2 bad input or no such run, 3 refused by a rule, 4 no majority,
    7 no placement has a machine.
    """
    runtime = Runtime.from_environment(topology)
    found = resuming.resume_training(runtime, group, job, run=name, say=_tell)
    word = _word(runtime, found, tell_seconds) if found.begun else None
    if as_json:
        print_json(show.resumption_facts(found, word))
    else:
        show.print_resumption(found, word)


@app.command("stop")
@reports_errors
def stop(
    group: GroupArgument,
    job: JobArgument,
    name: RunOption = None,
    grace_seconds: Annotated[
        float, typer.Option("--grace-seconds", min=0.0, help="How long it may take to write a last checkpoint.")
    ] = 30.0,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a run's job to write a last checkpoint and leave; it is killed when the grace is over.

    The run is not over: `holdfast train resume`, a task's retry or whoever waits for it goes on from that checkpoint.

    Exit codes: 0 it has ended, 1 failed, or it has not ended yet, 2 bad input, no such run or no job of it, 4 no
    majority.
    """
    runtime = Runtime.from_environment(topology)
    require_job(runtime.topology, group, job)
    state = require_active(runtime, group)
    chosen = require_run(runtime.store(state.active_site), group, job, name, epoch=state.epoch)
    check_run_name(group, job, chosen)
    found = stopping.stop_run(runtime, group, chosen, grace_seconds=grace_seconds)
    if as_json:
        print_json(show.stopped_facts(found))
    else:
        stands = f"{found.status.state}{', before it was asked' if found.already else ''}"
        console.print(f"{found.run} at {found.site} in epoch {found.epoch}: {stands}", markup=False)
    if found.status.state not in ENDED:
        raise typer.Exit(1)


@app.command("checkpoints")
@reports_errors
def checkpoints(
    name: RunArgument,
    site: SiteOption = None,
    group: OwnerOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """A run's checkpoints at each site, with their receipts, their lineage and what is odd about them.

    Exit codes: 0 listed, 1 a site did not answer or does not know the newest epoch, 2 bad input or no such run, 4 no
    majority.
    """
    runtime = Runtime.from_environment(topology)
    found = saved.list_checkpoints(runtime, name, group=group, site=site)
    if as_json:
        print_json({**show.plain(found), "alarms": found.alarms})
    else:
        show.print_listing(found)
    if any(one.error for one in found.sites):
        raise typer.Exit(1)


@app.command("verify")
@reports_errors
def verify(
    name: RunArgument,
    site: SiteOption = None,
    step: Annotated[int | None, typer.Option("--step", min=0, help="Only this step's checkpoints.")] = None,
    group: OwnerOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every blob of a run's checkpoints back, and hash it, decoded as well where it is compressed. Nothing is
    changed.

    Exit codes: 0 every checkpoint is whole, 1 a site did not answer, or a checkpoint is of a later version's format, so
    not all of it is known; 2 bad input,
    4 no majority, 5 a checkpoint is damaged, 6 there is nothing to verify.
    """
    runtime = Runtime.from_environment(topology)
    found = saved.verify_checkpoints(runtime, name, group=group, site=site, step=step)
    if as_json:
        print_json({**show.plain(found), "verdict": found.verdict})
    else:
        show.print_verification(found)
    code = {"intact": 0, "unknown": 1, "damaged": DAMAGED, "nothing to verify": NOTHING}[found.verdict]
    if code:
        raise typer.Exit(code)


def _tell(said: str) -> None:
    errors.print(said, markup=False)


def _state(runtime: Runtime, started: StartedJob) -> JobState | None:
    """How a job stands that was just started; None: its backend does not answer, and says it later."""
    try:
        return runtime.backend(started.site).status(started.handle).state
    except HoldfastError as error:
        if not error.transient:
            raise
        _tell(f"It was started, and cannot be asked now: {error}")
        return None


def _to_its_end(
    runtime: Runtime, group: str, job: str, run: str, poll_seconds: float
) -> tuple[StartedJob | None, dict[str, Any] | None]:
    """Start the run, and again as long as a machine is what it lacks.

    Returns:
        the job that was waited for last, and what came of the run; no outcome: Ctrl-C left it, or, without a job, the
        waiting for a machine.
    """

    def start() -> StartedJob:
        started = start_training(runtime, group, job, run=run, say=_tell)
        _tell(show.started_text(started, None))
        return started

    def further(ended: JobStatus) -> bool:
        on = goes_on(runtime, group, status=ended, epoch=waiter.job.epoch if waiter.job else None)
        if on:
            _tell(f"{ended.state}{f': {ended.detail}' if ended.detail else ''}; the run goes on")
        return on

    def outcome(ended: JobStatus) -> dict[str, Any]:
        epoch = waiter.job.epoch if waiter.job else None
        found = training_outcome(runtime, group, job, run=run, status=ended, epoch=epoch)
        return {**found, "state": ended.state}

    def pause(later: waiting.AskAgain) -> bool:
        nothing = isinstance(later.why, NoMachine)
        _tell(str(later.why) if nothing else f"It cannot be asked now, and is asked again: {later.why}")
        return not _until(runtime, later.at, left, poll_seconds)

    with leaving() as left:
        waiter: waiting.Waiter[StartedJob, dict[str, Any]] = waiting.Waiter(
            runtime.clock,
            start=start,
            wait=lambda started: _wait(runtime, group, job, started, left, poll_seconds),
            goes_on=further,
            finish=outcome,
            pause=pause,
            poll_seconds=poll_seconds,
            final=(TrainingLost,),
        )
        found = waiter.run()
        return waiter.job, found


def _until(runtime: Runtime, moment: datetime, left: threading.Event, poll_seconds: float) -> bool:
    """Wait until then; False: Ctrl-C came first."""
    while runtime.clock.now() < moment:
        if left.wait(poll_seconds):
            return False
    return True


def _wait(
    runtime: Runtime, group: str, job: str, started: StartedJob, left: threading.Event, poll_seconds: float
) -> JobStatus | None:
    backend = runtime.backend(started.site)
    watching = Watching(runtime, group, job, started, backend, errors)
    return waiting.wait_for_job(
        backend,
        started.handle,
        pause=lambda: left.wait(poll_seconds),
        seen=watching.seen,
        unanswered=watching.unanswered,
        over=waiting.JobWatch(runtime, group, epoch=started.epoch, move_on_at=started.move_on_at).over,
    )


def _word(runtime: Runtime, found: resuming.Resumption, seconds: float) -> dict[str, Any] | None:
    """What the new attempt says it resumed from, if it says so in time."""
    backend = runtime.backend(found.started.site)
    end = time.monotonic() + seconds
    while True:
        try:
            word = resuming.resumed_by(backend, found.started.handle)
        except HoldfastError as error:
            if not error.transient:
                raise
            word = None
        if word is not None or time.monotonic() >= end:
            return word
        time.sleep(0.2)
