"""``holdfast failover``: make another site the active one, from any machine, without Airflow."""

from __future__ import annotations

from typing import Annotated, cast

import typer
from rich.table import Table

from holdfast.cli.groups import GroupOption, choose_group
from holdfast.cli.output import JsonOption, TopologyOption, console, errors, print_json, reports_errors
from holdfast.cli.person import account
from holdfast.cli.watching import show_progress
from holdfast.engine.recovery.plan import Plan, Verb
from holdfast.engine.runtime import Runtime

app = typer.Typer(help="Make another site the active one: plan, run, resume, abort.", no_args_is_help=True)

PlanArgument = Annotated[str, typer.Argument(metavar="PLAN", help="The id of a plan.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Approve what the rules do not decide, by your account's name.")]
ReasonOption = Annotated[str, typer.Option(help="Why; stands in the new epoch for ever.")]
TargetOption = Annotated[str | None, typer.Option(help="The site to activate; default: the first standby.")]
VerbOption = Annotated[
    str, typer.Option(help="failover (the source is presumed dead) or switchover (both live, nothing is lost).")
]


@app.command("plan")
@reports_errors
def plan(
    group: GroupOption = None,
    target: TargetOption = None,
    verb: VerbOption = "failover",
    reason: ReasonOption = "by hand",
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the plan that would be run. Nothing is changed and nothing is kept."""
    from holdfast.engine.recovery.plan import new_plan

    runtime = Runtime.from_environment(topology)
    made = new_plan(
        runtime,
        choose_group(runtime, group),
        verb=cast("Verb", verb),
        target=target,
        reason=reason,
        asked_by=account(),
    )
    if as_json:
        print_json({**made.model_dump(mode="json"), "hash": made.hash, "epoch": made.epoch})
        return
    console.print(
        f"{made.verb} of {made.group}: {made.source} → {made.target}, epoch {made.expected_epoch} → {made.epoch}"
    )
    console.print(f"steps: {' → '.join(made.steps)}")


@app.command("run")
@reports_errors
def run(
    group: GroupOption = None,
    target: TargetOption = None,
    verb: VerbOption = "failover",
    reason: ReasonOption = "by hand",
    yes: YesOption = False,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a plan and run it to its end.

    Where the group's `four_eyes` is set, --yes is refused: the plan is kept, and somebody else resumes it with --yes.

    Exit codes: 0 done, 1 a step failed (resume the plan), 2 bad input, 3 refused or a person has to decide,
    4 no majority.
    """
    from holdfast.engine.recovery.plan import new_plan

    runtime = Runtime.from_environment(topology)
    made = new_plan(
        runtime,
        choose_group(runtime, group),
        verb=cast("Verb", verb),
        target=target,
        reason=reason,
        asked_by=account(),
    )
    _run(runtime, made, yes=yes, as_json=as_json)


@app.command("resume")
@reports_errors
def resume(
    plan_id: PlanArgument,
    group: GroupOption = None,
    yes: YesOption = False,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a plan wherever its runner died: a plan whose epoch is committed only rolls forward."""
    from holdfast.engine.recovery.plan import load_plan

    runtime = Runtime.from_environment(topology)
    _run(runtime, load_plan(runtime, choose_group(runtime, group), plan_id), yes=yes, as_json=as_json)


@app.command("abort")
@reports_errors
def abort(
    plan_id: PlanArgument,
    group: GroupOption = None,
    reason: ReasonOption = "by hand",
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a plan up, which is possible until its epoch is committed."""
    from holdfast.engine.recovery.abort import abort_plan
    from holdfast.engine.recovery.plan import load_plan

    runtime = Runtime.from_environment(topology)
    made = load_plan(runtime, choose_group(runtime, group), plan_id)
    abort_plan(runtime, made, by=account(), reason=reason)
    if as_json:
        print_json({"plan_id": plan_id, "aborted": True})
    else:
        console.print(f"Plan {plan_id} is given up; the group is free.")


def _run(runtime: Runtime, made: Plan, *, yes: bool, as_json: bool) -> None:
    from holdfast.engine.recovery.runner import run_plan

    if not as_json:
        console.print(
            f"Plan {made.plan_id}: {made.verb} of {made.group}, {made.source} → {made.target}, epoch {made.epoch}"
        )
    result = run_plan(runtime, made, approved_by=account() if yes else None, progress=show_progress)
    if as_json:
        print_json({"plan": made, "hash": made.hash, "complete": result.complete, "steps": list(result.records)})
        return
    table = Table("step", "seconds", "ended", box=None)
    for record in result.records:
        table.add_row(record.step, f"{record.seconds:.3f}", record.ended_at.isoformat(timespec="milliseconds"))
    console.print(table)
    console.print(f"{made.target} is active in epoch {made.epoch}.")
    resumed = result.record("resume_training")
    for job in resumed.evidence.get("jobs", []) if resumed is not None else []:
        if job.get("degraded"):
            errors.print(
                f"{job['detail']}. `holdfast train resume {made.group} {job['job']}` asks again.", markup=False
            )
