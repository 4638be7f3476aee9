"""``holdfast drill``: lose a site on purpose, measure what happens, prove it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from holdfast.cli.groups import GroupOption, choose_group
from holdfast.cli.output import JsonOption, TopologyOption, console, print_json, reports_errors
from holdfast.cli.watching import show_progress
from holdfast.engine.drill.journal import DrillJournal
from holdfast.engine.drill.summary import summary_rows
from holdfast.engine.runtime import Runtime

app = typer.Typer(help="Lose a site on purpose, and measure what happens.", no_args_is_help=True)

OutputOption = Annotated[
    Path | None, typer.Option("--output", help="Folder for the evidence; default ./evidence/<drill id>.")
]
_MARKS = {True: "[green]met[/]", False: "[red]missed[/]", None: "[yellow]unknown[/]"}


@app.command("run")
@reports_errors
def run(
    scenario: Annotated[str, typer.Argument(help="What happens, e.g. site-outage; see `holdfast drill list`.")],
    group: GroupOption = None,
    output: OutputOption = None,
    approved_by: Annotated[
        str | None, typer.Option(help="Who approves the failover, where the rules do not decide alone.")
    ] = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a drill against the sandbox: hypothesis, fault, failover, hypothesis, rollback, signed evidence.

    Traffic and training really move to the standby, and stay there. The fault is lifted however the drill ends, also
    on Ctrl-C.

    Exit codes: 0 every claim holds, 1 failed, deviated or a claim is false or unknown, 2 bad input, 3 refused,
    4 no majority.
    """
    from holdfast.engine.drill.phases import new_drill_id
    from holdfast.engine.drill.run import run_drill
    from holdfast.engine.drill.scenarios import find_scenario
    from holdfast.sandbox.faults import SandboxFaults

    find_scenario(scenario)
    runtime = Runtime.from_environment(topology)
    name = choose_group(runtime, group)
    faults = SandboxFaults(runtime.environ)
    _ = faults.description  # a sandbox that is down is told before anything is asked of it
    drill_id = new_drill_id(runtime.clock.now())
    folder = output or Path("evidence") / drill_id
    journal = run_drill(
        runtime, name, scenario, faults, folder, drill_id=drill_id, approved_by=approved_by, progress=show_progress
    )
    _show(journal, folder, as_json)


@app.command("close")
@reports_errors
def close(
    drill_id: Annotated[str, typer.Argument(metavar="DRILL", help="The id of a drill whose process died.")],
    output: OutputOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a drill whose own process died: lift its fault, write its evidence as interrupted, free the group.

    A drill that died before its first record had no fault in and has no evidence: its group is freed.

    Exit codes: 1 it is closed (an interrupted drill is no pass), 2 there is no such drill.
    """
    from holdfast.engine.drill.conclude import conclude, free_unrecorded
    from holdfast.engine.drill.errors import DrillNotFound
    from holdfast.engine.drill.log import open_drill
    from holdfast.engine.drill.phases import lift
    from holdfast.engine.drill.run import write_drill_evidence
    from holdfast.sandbox.faults import SandboxFaults

    runtime = Runtime.from_environment(topology)
    try:
        state = open_drill(runtime, drill_id, progress=show_progress)
    except DrillNotFound as error:
        # Where a site is silent its records may lie there, and its fault may be in.
        freed = [] if error.silent_sites else free_unrecorded(runtime, drill_id)
        if not freed:
            raise
        if as_json:
            print_json({"drill_id": drill_id, "freed": freed, "evidence": None})
        else:
            console.print(f"Drill {drill_id} died before its first record; freed: {', '.join(freed)}", markup=False)
        raise typer.Exit(1) from None
    lift(state, SandboxFaults(runtime.environ))
    journal = conclude(state, status="interrupted")
    folder = output or Path("evidence") / drill_id
    write_drill_evidence(runtime, journal, folder, state)
    _show(journal, folder, as_json)


@app.command("verify")
@reports_errors
def verify(
    path: Annotated[Path, typer.Argument(help="The evidence folder, or any file in it.")],
    public_key: Annotated[
        str | None,
        typer.Option(
            "--public-key", help="The key that must have signed: a PEM file, or 32 raw bytes in hex or base64."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a drill's or a restore drill's evidence, offline: the signature, and every byte of journal and report.

    Of a restore drill the verdict is judged anew from its claims.

    Without --public-key it is checked against the key the evidence itself names: that shows that nothing was changed
    since, not who made it.

    Exit codes: 0 it is what was signed, 1 it is not, 2 the key cannot be read.
    """
    from holdfast.engine.drill.evidence import load_public_key, verify_evidence

    found = verify_evidence(path, public_key=load_public_key(public_key) if public_key is not None else None)
    if as_json:
        print_json({"ok": True, **asdict(found)})
    else:
        console.print(
            f"{found.folder}: drill {found.drill_id}, {found.status}{f', {found.verdict}' if found.verdict else ''}; "
            f"{', '.join(found.files)} are what was "
            f"{found.signer}",
            markup=False,
        )


@app.command("list")
@reports_errors
def list_scenarios(as_json: JsonOption = False) -> None:
    """The scenarios a drill can run, and what each must prove."""
    from holdfast.engine.drill.scenarios import SCENARIOS

    if as_json:
        print_json(list(SCENARIOS.values()))
        return
    for scenario in SCENARIOS.values():
        console.print(f"[bold]{scenario.name}[/]  {scenario.title}")
        for claim in scenario.must_prove:
            console.print(f"  - {claim}")


def _show(journal: DrillJournal, folder: Path, as_json: bool) -> None:
    document = journal.as_document()
    if as_json:
        print_json({**document, "evidence": folder})
    else:
        _print(document, folder)
    if not journal.green:
        raise typer.Exit(1)


def _print(journal: dict[str, Any], folder: Path) -> None:
    verdict = journal["verdict"]
    console.print(
        f"Drill {journal['drill_id']}: {journal['status']}{', deviated' if journal['deviated'] else ''}; "
        f"evidence in {folder}"
    )
    if journal["error"]:
        console.print(
            f"Ended by {journal['error']['error']}: {journal['error']['what']} ({journal['error']['found'] or ''})",
            markup=False,
        )
    table = Table("claim", "objective", "measured", "", box=None)
    for row in summary_rows(journal):
        table.add_row(*row[:3], _MARKS[verdict[row[3]]] if row[3] else "")
    console.print(table)
