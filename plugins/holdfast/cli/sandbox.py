"""`holdfast sandbox`: three emulated clouds on loopback, behind faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.sandbox import Sandbox
    from holdfast.sandbox.status import SandboxStatus

app = typer.Typer(help="Three emulated clouds on loopback, behind faults.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
State = Annotated[Path | None, typer.Option("--state", help="State folder; default $HOLDFAST_STATE, else ~/.holdfast.")]
TopologyFile = Annotated[Path | None, typer.Option("--topology", help="Topology whose sites are emulated.")]
SiteName = Annotated[str, typer.Argument(metavar="SITE", help="A site of the topology.")]


@app.command()
def up(
    state: State = None,
    topology: TopologyFile = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for every part.")] = 120.0,
    agents: Annotated[bool | None, typer.Option("--agents/--no-agents", help="Run each site's service too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start what is missing, and wait until it serves."""
    with _errors(as_json):
        status = _sandbox(state, topology).up(timeout, agents=agents)
        _print(status, as_json)


@app.command()
def down(
    state: State = None,
    wipe: Annotated[bool, typer.Option("--wipe", help="Also remove data, faults and chosen ports.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop every part. Durable data stays for the next `up` unless --wipe."""
    with _errors(as_json):
        sandbox = _sandbox(state)
        sandbox.down(wipe=wipe)
        typer.echo(json.dumps({"state": str(sandbox.paths.state), "up": False}) if as_json else "The sandbox is down.")


@app.command()
def status(state: State = None, as_json: AsJson = False) -> None:
    """Show each part and the mode of each site. Exits 1 unless every part answers."""
    with _errors(as_json):
        found = _sandbox(state).status()
        _print(found, as_json)
        if not found.up:
            raise typer.Exit(1)


@app.command()
def fault(
    site: SiteName,
    mode: Annotated[
        str,
        typer.Argument(
            metavar="MODE",
            help=(
                "up (clears), down, blackhole, latency, throttle, http503, corrupt, truncate, half-open, "
                "frozen, destroyed."
            ),
        ),
    ],
    milliseconds: Annotated[float | None, typer.Option("--ms", help="For latency: added to each round trip.")] = None,
    bytes_per_second: Annotated[float | None, typer.Option("--bytes-per-second", help="For throttle.")] = None,
    direction: Annotated[str, typer.Option(help="both, ingress (ways in) or egress (ways out).")] = "both",
    listener: Annotated[str | None, typer.Option(help="Only this one, e.g. service or 'egress:*:store'.")] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Also reset open connections.")] = False,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Put a site under a fault, live. `up` for the whole site lifts every fault."""
    given = {"milliseconds": milliseconds, "bytes_per_second": bytes_per_second}
    parameters = {name: value for name, value in given.items() if value is not None}
    with _errors(as_json):
        sandbox = _sandbox(state)
        if mode == "up" and direction == "both" and listener is None and not parameters:
            sandbox.clear(site, drop=drop)
        else:
            sandbox.fault(site, mode, direction=direction, listener=listener, drop=drop, **parameters)
        shown = sandbox.status().site(site)
        document = {"site": site, "mode": shown.mode, **shown.modes}
        typer.echo(json.dumps(document) if as_json else f"{site}: {shown.mode}")


@app.command()
def env(
    vantage: Annotated[str, typer.Argument(help="`outside`, or a site to stand in.")] = "outside",
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Print the variables of a process at a vantage point: `set -a; eval "$(holdfast sandbox env)"`."""
    from holdfast.engine.config.environment_file import format_environment

    with _errors(as_json):
        environ = _sandbox(state).environment(vantage)
        typer.echo(json.dumps(environ, indent=1) if as_json else format_environment(environ), nl=as_json)


@app.command()
def scene(
    group: Annotated[str, typer.Argument(help="The protection group that is brought to work.")] = "market-risk",
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Bring a group to work in the sandbox: register, data, first model, traffic record, replicas, a run under way.

    What is done already is left as it is.
    """
    import os

    from holdfast.engine.runtime import Runtime
    from holdfast.sandbox.scene import set_scene

    with _errors(as_json):
        environ = {**os.environ, **_sandbox(state).environment()}
        runtime = Runtime.from_environment(environ=environ)
        set_scene(runtime, group, say=lambda line: typer.echo(line, err=as_json))
        if as_json:
            typer.echo(json.dumps({"group": group, "ready": True}))


trails = typer.Typer(help="Audit logs of the emulated clouds.", no_args_is_help=True)
app.add_typer(trails, name="trails")


@trails.command("deliver")
def deliver_trails(state: State = None, as_json: AsJson = False) -> None:
    """Deliver what the fault proxies recorded, now, and close the periods that are open. Exits 1 if a site failed."""
    with _errors(as_json):
        delivered = _sandbox(state).deliver_trails()
        if as_json:
            typer.echo(json.dumps([one.as_dict() for one in delivered], indent=1))
        for one in () if as_json else delivered:
            lost = f", {one.unparsed} streams were no HTTP" if one.unparsed else ""
            lost += f", {one.torn} records were cut off" if one.torn else ""
            typer.echo(f"{one.site}: {one.events} events in {one.objects} objects{lost}")
        for one in delivered:
            if one.error is not None:
                typer.echo(f"holdfast sandbox: {one.site}: {one.error.get('what')}: {one.error.get('found')}", err=True)
        if any(one.error is not None for one in delivered):
            raise typer.Exit(1)


def _sandbox(state: Path | None, topology: Path | None = None) -> Sandbox:
    from holdfast.sandbox import Sandbox

    return Sandbox(state, topology=topology)


@contextmanager
def _errors(as_json: bool) -> Iterator[None]:
    try:
        yield
    except HoldfastError as error:
        if as_json:
            typer.echo(json.dumps(error.as_dict(), indent=1))
        typer.echo(f"holdfast sandbox: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


def _print(status: SandboxStatus, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(status.as_dict(), indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not status.parts:
        console.print(f"The sandbox is down ({status.state}).", highlight=False)
        return
    table = Table("part", "address", "pid", "state", "restarts", box=None)
    for part in status.parts:
        state = part.state if part.healthy or part.state != "running" else "no answer"
        table.add_row(part.name, part.address, str(part.pid or "-"), state + _because(part.error), str(part.restarts))
    console.print(table)
    sites = Table("site", "cloud", "mode", box=None)
    for site in status.sites:
        sites.add_row(site.name, site.cloud, site.mode if site.mode != "mixed" else _mixed(site.modes))
    console.print(sites)
    console.print(
        f"{'Up' if status.up else 'Not all up'}: keeper {status.keeper_pid or 'gone'}, state in {status.state}",
        highlight=False,
        soft_wrap=True,
    )


def _because(error: str | None) -> str:
    return f" ({error})" if error else ""


def _mixed(modes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {one['mode']}" for name, one in modes["listeners"].items() if one["mode"] != "up")
