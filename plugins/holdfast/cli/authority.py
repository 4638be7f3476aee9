"""``holdfast authority``: who is active, as the register over the sites' stores says."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer
from rich.table import Table

from holdfast.cli.output import JsonOption, TopologyOption, console, print_json, reports_errors
from holdfast.engine.authority.acceptor import state_to_json
from holdfast.engine.authority.interface import AcceptorView, EpochConflict, EpochState, NoMajority
from holdfast.engine.runtime import Runtime

app = typer.Typer(help="Which site is active, per group, in which epoch.", no_args_is_help=True)

GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="A protection group of the topology.")]


@app.command("show")
@reports_errors
def show(group: GroupArgument, topology: TopologyOption = None, as_json: JsonOption = False) -> None:
    """The committed state of a group, and what each acceptor holds.

    Exit codes: 0 shown, 2 unknown group, 4 no majority answers (the acceptors are shown all the same).
    """
    runtime = Runtime.from_environment(topology)
    authority = runtime.authority(group)
    state, problem = None, None
    try:
        state = authority.read(group)
    except NoMajority as error:
        problem = error
    views = authority.inspect(group)
    if as_json:
        print_json(
            {
                "group": group,
                "state": None if state is None else state_to_json(state),
                "majority": problem is None,
                "acceptors": [_view_to_json(view) for view in views],
                **({"error": problem.as_dict()} if problem else {}),
            }
        )
    else:
        _print_state(group, state, problem)
        console.print(_table(views))
    if problem is not None:
        raise typer.Exit(problem.exit_code)


@app.command("init")
@reports_errors
def init(group: GroupArgument, topology: TopologyOption = None, as_json: JsonOption = False) -> None:
    """Commit epoch 1 with the active site the topology names. Doing it again changes nothing.

    Exit codes: 0 initialised (or it was before), 2 unknown group, 4 no majority.
    """
    runtime = Runtime.from_environment(topology)
    site = runtime.topology.group(group).sites.active
    authority = runtime.authority(group)
    fresh = True
    try:
        state = authority.advance(
            group,
            expected_epoch=0,
            active_site=site,
            plan_id=f"init-{uuid.uuid4().hex[:12]}",
            reason="the group's first epoch, from the topology",
        )
    except EpochConflict as conflict:
        if conflict.current is None:
            raise
        state, fresh = conflict.current, False
    _report(group, state, "initialised" if fresh else "was initialised before; nothing was changed", as_json)


def _report(group: str, state: EpochState, what: str, as_json: bool) -> None:
    if as_json:
        print_json({"group": group, "result": what, "state": state_to_json(state)})
    else:
        console.print(f"{group}: {what}: epoch {state.epoch}, active {state.active_site}")


def _print_state(group: str, state: EpochState | None, problem: NoMajority | None) -> None:
    if problem is not None:
        console.print(f"{group}: nobody knows who is active: {problem}", style="red", markup=False)
    elif state is None:
        console.print(f"{group}: no epoch yet; run `holdfast authority init {group}`")
    else:
        before = state.previous_site or "none"
        console.print(f"{group}: epoch {state.epoch}, active {state.active_site} (before: {before})")
        console.print(f"  committed {state.committed_at.isoformat()} by {state.holder}", markup=False)
        console.print(f"  plan {state.plan_id}: {state.reason}", markup=False)
        if state.operation is not None:
            held, until = state.operation, state.operation.expires_at.isoformat()
            console.print(f"  {held.kind} {held.plan_id} of {held.holder} until {until}", markup=False)


def _table(views: list[AcceptorView]) -> Table:
    table = Table("acceptor", "answers", "epoch", "promised", "accepted", "detail", box=None)
    for view in views:
        table.add_row(
            view.site,
            "yes" if view.reachable else "[red]no[/]",
            "" if view.state is None else str(view.state.epoch),
            view.promised or "",
            view.accepted or "",
            view.detail or "",
        )
    return table


def _view_to_json(view: AcceptorView) -> dict[str, object]:
    return {
        "site": view.site,
        "reachable": view.reachable,
        "promised": view.promised,
        "accepted": view.accepted,
        "state": None if view.state is None else state_to_json(view.state),
        "detail": view.detail,
    }
