"""``holdfast check``: is the topology valid, and what of it answers?"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from holdfast.cli.output import JsonOption, TopologyOption, console, print_json, reports_errors
from holdfast.engine.recovery.readiness import Finding, check_readiness
from holdfast.engine.runtime import Runtime

_MARKS = {True: "[green]ok[/]", False: "[red]failed[/]", None: "[yellow]unknown[/]"}


@reports_errors
def check(
    topology: TopologyOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="Validate the file alone; ask nobody.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Validate the topology, then tell part by part what answers and what does not.

    Exit codes: 0 everything answers, 1 something does not, 2 the topology is not valid.
    """
    runtime = Runtime.from_environment(topology)
    findings = [] if offline else check_readiness(runtime)
    failed = [finding for finding in findings if finding.ok is False]
    if as_json:
        print_json({"topology": runtime.topology.path, "valid": True, "ok": not failed, "findings": findings})
    else:
        console.print(f"{runtime.topology.path}: valid")
        if findings:
            console.print(_table(findings))
            console.print(
                f"{len(failed)} of {len(findings)} parts failed" if failed else "Everything that should answer does."
            )
    if failed:
        raise typer.Exit(1)


def _table(findings: list[Finding]) -> Table:
    table = Table("part", "name", "", "detail", "seconds", box=None)
    for finding in findings:
        table.add_row(finding.part, finding.name, _MARKS[finding.ok], escape(finding.detail), f"{finding.seconds:.3f}")
    return table
