"""``holdfast vault backup``: a group's datasets and models, a run, a folder, a command's output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import vault_tables as show
from holdfast.cli.groups import GroupOption, choose_group
from holdfast.cli.output import JsonOption, TopologyOption, errors, print_json, reports_errors
from holdfast.cli.vault_options import TierOption, VaultOption, choose_vault
from holdfast.cli.vault_progress import vault_progress
from holdfast.engine.pipeline.vaults import backing_up
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.layout import check_name
from holdfast.errors import ConfigError, HoldfastError

app = typer.Typer(help="Back up: group, run, tree, command, airflow.", no_args_is_help=True)

LabelOption = Annotated[list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="May be repeated.")]


@app.command("group")
@reports_errors
def group_(
    group: GroupOption = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="One dataset or model of the group; by default every one of them.")
    ] = None,
    site: Annotated[str | None, typer.Option("--site", help="Where it is read; by default the active site.")] = None,
    snapshot: Annotated[
        str | None, typer.Option("--snapshot", help="A snapshot's id, or how it begins; by default the newest.")
    ] = None,
    tier: TierOption = "daily",
    vault: VaultOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up the newest snapshots of a group's datasets and models into its vaults.

    What did not change since the last backup is neither read nor stored again.

    Exit codes: 0 all are made, mirrored and witnessed, 1 some are not, 2 bad input, 3 refused or the wrong key,
    4 damaged, rolled back, or no majority.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_group(runtime, group)
    done: list[dict[str, object]] = []
    failed: list[HoldfastError] = []
    for one in backing_up.back_up_group(
        runtime,
        name,
        vault=vault,
        subject=subject,
        site=site,
        snapshot=snapshot,
        tier=tier,
        watch=lambda what, where: vault_progress(errors, f"{what} → {where}", runtime.clock),
    ):
        if one.made is not None:
            done.append(one.made.to_summary())
            if not as_json:
                show.print_made_backup(one.made)
        if one.error is not None:
            failed.append(one.error)
            errors.print(f"holdfast: {one.subject} → {one.vault}: {one.error}", style="red", markup=False)
    if as_json:
        print_json({"group": name, "backups": done, "errors": [error.as_dict() for error in failed]})
    if failed:
        raise typer.Exit(failed[0].exit_code)


@app.command("run")
@reports_errors
def run_(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A training run of the group; `holdfast train status`.")],
    group: GroupOption = None,
    site: Annotated[str | None, typer.Option("--site", help="Where it is read; by default the active site.")] = None,
    tier: TierOption = "daily",
    vault: VaultOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up a training run with its checkpoints. It may go on training meanwhile.

    Restored with `--to-site SITE:runs/RUN` it can be resumed at that site.

    Exit codes: 0 made, mirrored and witnessed, 1 something changed meanwhile or a mirror lacks it, 2 bad input,
    3 refused or the wrong key, 4 rolled back, or no majority.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_group(runtime, group)
    one = choose_vault(runtime, vault, group=name)
    with vault_progress(errors, f"{run} → {one}", runtime.clock) as progress:
        made = backing_up.back_up_run(runtime, name, run, one, site=site, tier=tier, progress=progress)
    _tell(made, as_json)


@app.command("tree")
@reports_errors
def tree(
    folder: Annotated[Path, typer.Argument(help="A folder of this machine.")],
    name: Annotated[str, typer.Option("--name", help="Of the series of backups.")],
    chunk_kib: Annotated[int, typer.Option("--chunk-kib", help="About how long a chunk is; a power of two.")] = 256,
    tier: TierOption = "daily",
    full: Annotated[bool, typer.Option("--full", help="Read every file, also those that did not change.")] = False,
    vault: VaultOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up a folder of this machine. Symbolic links, sockets and devices are passed over and named.

    Exit codes: 0 made, mirrored and witnessed, 1 a file changed meanwhile or a mirror lacks it, 2 bad input,
    3 the wrong key, 4 rolled back.
    """
    from holdfast.engine.vault.sources import TreeSource

    runtime = Runtime.from_environment(topology)
    one = choose_vault(runtime, vault)
    source = TreeSource(check_name(name), folder, runtime.clock.now())
    with vault_progress(errors, f"{name} → {one}", runtime.clock) as progress:
        made = backing_up.back_up_source(
            runtime, one, source, tier=tier, chunk_bytes=chunk_kib * 1024, progress=progress, full=full
        )
    _tell(made, as_json)


@app.command("command", context_settings={"allow_interspersed_args": False})
@reports_errors
def command(
    arguments: Annotated[list[str], typer.Argument(metavar="COMMAND [ARGUMENT]...", help="After `--`.")],
    name: Annotated[str, typer.Option("--name", help="Of the series of backups.")],
    path: Annotated[str, typer.Option("--path", help="What its output is called in the backup.")] = "output",
    chunk_kib: Annotated[int, typer.Option("--chunk-kib", help="About how long a chunk is; a power of two.")] = 256,
    tier: TierOption = "daily",
    vault: VaultOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a command and back up what it writes to its standard output. Unless it ends with 0 there is no backup.

    Example: holdfast vault backup command --name prices-db -- pg_dump -Fc prices

    Exit codes: 0 made, mirrored and witnessed, 1 the command failed or a mirror lacks it, 2 bad input, 3 the wrong
    key, 4 rolled back.
    """
    from holdfast.engine.vault.commands import CommandSource

    runtime = Runtime.from_environment(topology)
    one = choose_vault(runtime, vault)
    source = CommandSource(check_name(name), path, arguments, runtime.clock.now(), os.environ)
    with vault_progress(errors, f"{name} → {one}", runtime.clock) as progress:
        made = backing_up.back_up_source(
            runtime, one, source, tier=tier, chunk_bytes=chunk_kib * 1024, progress=progress
        )
    _tell(made, as_json)


@app.command("airflow")
@reports_errors
def airflow(
    url_variable: Annotated[
        str, typer.Option("--url-variable", help="The environment variable that holds the database's URL.")
    ] = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    executable: Annotated[
        Path | None, typer.Option("--airflow", help="The installation's program; by default the one at hand.")
    ] = None,
    tier: TierOption = "daily",
    vault: VaultOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up Airflow's metadata database, its configuration, versions and bundles, and its keys in escrow.

    PostgreSQL by `pg_dump`, SQLite by its own backup; a dump that failed or is short makes no backup.

    Exit codes: 0 made, mirrored and witnessed, 1 the dump failed or a mirror lacks it, 2 bad input, 3 who opens the
    escrow would open the vault too, 4 rolled back.
    """
    from holdfast.engine.pipeline.vaults.airflow import back_up_airflow

    runtime = Runtime.from_environment(topology)
    one = choose_vault(runtime, vault)
    url = runtime.environ.get(url_variable)
    if not url:
        raise ConfigError(
            "the metadata database is not named",
            where=f"${url_variable}",
            expected="its URL, as SQLAlchemy writes it",
            found="nothing",
            fix="Set it, or name another variable with --url-variable",
        )
    with vault_progress(errors, f"airflow → {one}", runtime.clock) as progress:
        made = back_up_airflow(
            runtime,
            one,
            url=url,
            executable=executable,
            tier=tier,
            progress=progress,
            say=lambda line: errors.print(line, markup=False),
        )
    _tell(made, as_json)


def _tell(made: backing_up.Made, as_json: bool) -> None:
    print_json(made.to_summary()) if as_json else show.print_made_backup(made)
    made.require_mirrored()
