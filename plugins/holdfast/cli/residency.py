"""``holdfast residency``: where copies lie, whether they may, and what allowed them there."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from holdfast.cli.output import JsonOption, TopologyOption, cell, console, errors, print_json, reports_errors
from holdfast.engine.audit.residency import ResidencyReport, Verdict, prove
from holdfast.engine.policy import Action, Decision, Intent, Kind, Service, decide, policy_documents, residency_for
from holdfast.engine.policy.asking import intent_of
from holdfast.engine.policy.texts import policy_of
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError

#: Beside the usual ones.
BREACH, UNKNOWN = 6, 7
_CODES = {Verdict.LAWFUL: 0, Verdict.BREACH: BREACH, Verdict.UNKNOWN: UNKNOWN}
_COLOURS = {Verdict.LAWFUL: "green", Verdict.BREACH: "red", Verdict.UNKNOWN: "yellow"}

app = typer.Typer(
    help="Where copies of data lie, whether they may, and what allowed them there.",
    no_args_is_help=True,
    epilog="Exit codes: 0 lawful (or allowed), 1 failed, 2 bad input, 3 denied (`decide`), 6 breach, 7 unknown.",
)

SiteOption = Annotated[list[str] | None, typer.Option("--site", help="Only this site; may be given several times.")]
ActionOption = Annotated[Action, typer.Option("--action", help="What would be done.", case_sensitive=False)]
ServiceOption = Annotated[Service, typer.Option("--service", help="Who would do it.", case_sensitive=False)]
KindOption = Annotated[Kind | None, typer.Option("--kind", help="As what; by default as that service asks.")]


@app.command("check")
@reports_errors
def check(
    site: SiteOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Show the lawful copies too.")] = False,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Walk all sites and judge every copy that exists. Reads no data, and writes nothing.

    Exit codes: 0 every copy is lawful, 1 failed, 2 bad input, 6 a copy lies where it may not, 7 something is unknown
    (a site that does not answer, objects nobody names, a vault without its writer's key) and nothing is in breach.
    """
    runtime = Runtime.from_environment(topology)
    report = prove(runtime, sites=site or ())
    if as_json:
        print_json(report.to_json())
    else:
        _print(report, everything)
    if code := _CODES[report.verdict]:
        raise typer.Exit(code)


@app.command("decide")
@reports_errors
def decide_command(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="A dataset or a model of the topology.")],
    target: Annotated[str, typer.Argument(metavar="SITE", help="Where its bytes would lie.")],
    source: Annotated[str | None, typer.Option("--from", help="The site they come from.")] = None,
    action: ActionOption = Action.COPY,
    service: ServiceOption = Service.REPLICATION,
    kind: KindOption = None,
    purpose: Annotated[
        str | None, typer.Option("--purpose", help="As policies know it; by default as that service asks.")
    ] = None,
    encrypted: Annotated[
        bool | None,
        typer.Option("--encrypted/--plain", help="By default as that service does, a copy as the topology says."),
    ] = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether a move would be allowed, and by which policy. Nothing is moved, and nothing is logged.

    Exit codes: 0 allowed, 2 bad input, 3 denied.
    """
    runtime = Runtime.from_environment(topology)
    sites = runtime.topology.sites
    for name in (target, *([source] if source is not None else [])):
        runtime.topology.site(name)
    residency = residency_for(runtime.topology, subject)
    if residency is None:
        found = Decision(True, "", "", (), ("no residency class binds it",))
    else:
        usual = intent_of(service, action)
        is_encrypted = usual.encrypted if encrypted is None else encrypted
        intent = Intent(service, action, purpose or usual.purpose, kind or usual.kind, is_encrypted)
        found = decide(subject, residency, target, sites, intent=intent, source=source, preview=True)
    if as_json:
        print_json({"subject": subject, "target": target, "source": source, "action": action, **_decision(found)})
    else:
        console.print("allowed" if found.allowed else "denied", style="green" if found.allowed else "red")
        for reason in found.reasons:
            console.print(f"  {reason}", markup=False)
        if found.policy:
            console.print(f"  policy {found.policy}, sha256 {found.policy_sha256}", markup=False)
    if not found.allowed:
        raise typer.Exit(3)


@app.command("policies")
@reports_errors
def policies(
    name: Annotated[str | None, typer.Argument(metavar="CLASS", help="Print this class's policy alone.")] = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the residency classes with their policies, checked against the schema.

    Exit codes: 0 all are right, 2 one is not, or there is no such class.
    """
    loaded = Runtime.from_environment(topology).topology
    if name is not None and name not in loaded.residency:
        known = ", ".join(sorted(loaded.residency)) or "(none defined)"
        raise ConfigError("unknown residency class", where=str(loaded.path), expected=f"one of {known}", found=name)
    found = {one: policy_of(loaded, one) for one in sorted(loaded.residency) if name in (None, one)}
    bound = {one: sorted(d for d, settings in loaded.datasets.items() if settings.residency == one) for one in found}
    if as_json:
        print_json(
            {
                "policies": [
                    {"class": one, "name": p.name, "sha256": p.sha256, "text": p.text, "datasets": bound[one]}
                    for one, p in found.items()
                ],
                "documents": [{"name": d, "sha256": sha256} for d, _, sha256 in policy_documents(loaded)],
            }
        )
        return
    if name is not None:
        console.print(found[name].text, end="", markup=False)
        return
    table = Table("class", "policy", "sha256", "datasets", box=None)
    for one, policy in found.items():
        table.add_row(one, policy.name, policy.sha256[:12], ", ".join(bound[one]) or "–")
    console.print(table)


def _decision(found: Decision) -> dict[str, object]:
    return {
        "allowed": found.allowed,
        "policy": found.policy or None,
        "policy_sha256": found.policy_sha256 or None,
        "determining": found.determining,
        "reasons": found.reasons,
    }


def _print(report: ResidencyReport, everything: bool) -> None:
    from holdfast.engine.pipeline.telling import size

    shown = list(report.copies if everything else report.of(Verdict.BREACH, Verdict.UNKNOWN))
    for copy in shown:
        amount = "" if copy.size_bytes is None else f", {size(copy.size_bytes)}"
        decision = copy.decision or ("undecided" if copy.undecided else "no decision needed")
        what = cell(f"{copy.kind} {copy.subject} {copy.item}".strip())
        console.print(
            f"[{_COLOURS[copy.verdict]}]{copy.verdict}[/] {copy.site} ({copy.jurisdiction}): {what}{amount}\n"
            f"    {cell(copy.why)}; {cell(decision)}"
        )
    for finding in report.log_findings:
        errors.print(f"decision log: {finding}", markup=False, style="yellow")
    counts = report.count()
    undecided = sum(copy.undecided for copy in report.copies)
    console.print(
        f"{len(report.copies)} copies: {counts['lawful']} lawful, {counts['breach']} in breach, "
        f"{counts['unknown']} unknown; {undecided} without a decision in the log ({report.decisions} lines)"
    )
