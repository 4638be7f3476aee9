"""``holdfast vault show`` and ``restore``: what a backup holds, and getting it back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import vault_tables as show
from holdfast.cli.groups import GroupOption, choose_group
from holdfast.cli.output import JsonOption, TopologyOption, errors, print_json, reports_errors
from holdfast.cli.vault_options import AtOption, BackupArgument, FromOption, SourceOption, VaultOption, choose_vault
from holdfast.cli.vault_progress import vault_progress
from holdfast.engine.pipeline.vaults import restoring
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError


@reports_errors
def show_backup(
    backup: BackupArgument = None,
    vault: VaultOption = None,
    source: SourceOption = None,
    at: AtOption = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many paths.")] = 50,
    site: FromOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """One backup: where it is from, what it holds.

    Exit codes: 0 shown, 2 no such backup, 3 the wrong key, 4 damaged.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_vault(runtime, vault)
    found = restoring.shown(runtime, name, backup=backup, source=source, at=at, vault_site=site, limit=limit)
    if as_json:
        print_json(found.to_summary())
    else:
        show.print_backup(found)
    show.warn_of_namesakes(found.backup)


@reports_errors
def restore(
    backup: BackupArgument = None,
    to: Annotated[Path | None, typer.Option("--to", help="A folder of this machine.")] = None,
    to_site: Annotated[
        str | None, typer.Option("--to-site", metavar="SITE:PREFIX", help="Below a prefix of a site's bucket.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="At the group's active site, published as the newest snapshot.")
    ] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="With --live: why.")] = None,
    live_folder: Annotated[
        bool, typer.Option("--live-folder", help="With --live: also make the folder's objects those of the backup.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --live: do not ask.")] = False,
    group: GroupOption = None,
    path: Annotated[list[str] | None, typer.Option("--path", help="Only this, and what lies below it.")] = None,
    pattern: Annotated[list[str] | None, typer.Option("--pattern", help="Only what matches, as in a shell.")] = None,
    source: SourceOption = None,
    at: AtOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of the folder whose content differs.")
    ] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Restore what can be restored, and name the rest.")
    ] = False,
    vault: VaultOption = None,
    site: FromOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore a backup, verified. Broken off, run it again: what is there and right is not fetched again.

    Exit codes: 0 all of it is there, 1 some of it is not, the folder cannot be written, or a table still names its old
    place; 2 bad input, 3 refused or the wrong key, 4 damaged, 130 interrupted.
    """
    runtime = Runtime.from_environment(topology)
    if [to is not None, to_site is not None, live].count(True) != 1:
        raise ConfigError(
            "where to is not clear",
            expected="one of --to FOLDER, --to-site SITE:PREFIX and --live",
            found="none, or several",
        )
    if live:
        if path or pattern or keep_going or overwrite or not reason:
            raise ConfigError(
                "a live restore is of the whole backup, and has a reason",
                where="--live",
                expected="--reason, and no --path, --pattern, --keep-going or --overwrite",
                found="no --reason" if not reason else "one of them",
            )
        team = choose_group(runtime, group)
        name = choose_vault(runtime, vault, group=team)
        if not yes:
            what = backup or source or "the newest backup"
            typer.confirm(f"Publish {what} as the newest snapshot at the active site of {team}?", abort=True, err=True)
        with vault_progress(errors, f"restore from {name}", runtime.clock) as progress:
            done = restoring.restored_live(
                runtime,
                team,
                name,
                backup=backup,
                source=source,
                at=at,
                reason=str(reason),
                folder=live_folder,
                vault_site=site,
                progress=progress,
            )
        print_json(restoring.live_summary(name, done)) if as_json else show.print_live(done)
        show.warn_of_namesakes(done.restored.backup)
        return
    name = choose_vault(runtime, vault)
    if to is not None:
        target, admit = restoring.folder_target(to, overwrite=overwrite), lambda _backup: None
    else:
        where, _, prefix = str(to_site).partition(":")
        target, admit = restoring.site_target(runtime, where, prefix), restoring.admitted_at(runtime, where)
    with vault_progress(errors, f"restore from {name}", runtime.clock) as progress:
        report = restoring.restored(
            runtime,
            name,
            target,
            backup=backup,
            source=source,
            at=at,
            paths=path or (),
            patterns=pattern or (),
            keep_going=keep_going,
            vault_site=site,
            progress=progress,
            admit=admit,
        )
    if as_json:
        print_json(restoring.restore_summary(name, report))
    else:
        show.print_restored(report)
    show.warn_of_namesakes(report.backup)
    if not report.is_whole:
        raise typer.Exit(1)
