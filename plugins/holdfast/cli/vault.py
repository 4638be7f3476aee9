"""``holdfast vault``: backups in other clouds, restored before they are needed."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli import vault_tables as show
from holdfast.cli.groups import GroupOption, choose_group
from holdfast.cli.output import JsonOption, TopologyOption, errors, print_json, reports_errors
from holdfast.cli.vault_airflow import app as airflow_app
from holdfast.cli.vault_backup import app as backup_app
from holdfast.cli.vault_drill import app as drill_app
from holdfast.cli.vault_options import FromOption, LastOption, SourceOption, VaultOption, choose_vault
from holdfast.cli.vault_pitr import app as pitr_app
from holdfast.cli.vault_progress import count_progress
from holdfast.cli.vault_restore import restore, show_backup
from holdfast.engine.pipeline.vaults import backing_up, keeping, mirror_repairing, opening, renewing, verifying
from holdfast.engine.pipeline.vaults.advice import advice_on
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.repair import RepairReport
from holdfast.engine.vault.verify import Depth, VerifyOptions
from holdfast.errors import ConfigError, HoldfastError

app = typer.Typer(
    help="Backups: init, backup, list, show, restore, verify, forget, gc, hold, locks, mirror, drill, airflow, pitr, "
    "keys.",
    no_args_is_help=True,
    epilog="Exit codes: 0 done, 1 failed, 2 bad input, 3 refused or the wrong key, 4 the vault is damaged, "
    "130 interrupted.",
)
app.add_typer(backup_app, name="backup")
app.add_typer(drill_app, name="drill")
app.add_typer(pitr_app, name="pitr")
app.add_typer(airflow_app, name="airflow")
keys_app = typer.Typer(help="Who can open a vault: show, rotate, new.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")


@app.command("init")
@reports_errors
def init(vault: VaultOption = None, topology: TopologyOption = None, as_json: JsonOption = False) -> None:
    """Make a vault where the topology says, with its keys sealed for the recipients it names.

    It warns where fewer than two other clouds witness it.

    Exit codes: 0 made, 2 bad input, 3 there is one already.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_vault(runtime, vault)
    made = opening.made(runtime, name)
    facts = keeping.key_facts(runtime, name)
    warnings = [*advice_on(runtime.topology, name), *backing_up.unfinished_in(made)]
    if as_json:
        print_json({**facts, "warnings": warnings})
    else:
        show.print_made(name, made.store.name, facts)
        show.print_warnings(warnings)


@app.command("list")
@reports_errors
def list_backups(
    vault: VaultOption = None,
    source: SourceOption = None,
    site: FromOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """The live backups, newest first. One that cannot be read is among them, and told of on stderr.

    Exit codes: 0 shown, 2 bad input, 3 the wrong key, 4 the log is damaged or lies behind its witnesses.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_vault(runtime, vault)
    found, backups = keeping.listed(runtime, name, source=source, site=site)
    if as_json:
        alarm = None if found.alarm is None else found.alarm.as_dict()
        print_json({"vault": name, "alarm": alarm, "backups": [one.to_summary() for one in backups]})
    else:
        show.print_backups(name, backups)
    show.warn_of_unreadable(show.unreadable_of(backups), name)
    if found.alarm is not None:
        errors.print(f"holdfast: {found.alarm}", style="red", markup=False)
        raise typer.Exit(found.alarm.exit_code)


app.command("show")(show_backup)
app.command("restore")(restore)


@app.command("verify")
@reports_errors
def verify(
    depth: Annotated[
        Depth | None, typer.Option("--depth", help="How much is read; by default structure, and full with --repair.")
    ] = None,
    last: LastOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put back what is missing or damaged, then verify; wants the admin's key.")
    ] = False,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="With --repair: go on without log entries that are nowhere any more.")
    ] = False,
    vault: VaultOption = None,
    site: FromOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Whether all a live backup needs is there (structure), opens (sample), and is right to the last byte (full).

    A sample reads the packs that are due since the last one; in the vault's `verify_days` each is. What was found whole
    is noted in the vault: `status` calls a backup verified by it.

    Exit codes: 0 nothing is wrong (there may be warnings), 1 everything restores, but shares or a witness are gone, or
    no witness answers; 3 the wrong key, 4 something is wrong: it is named, and what cannot be restored for it.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_vault(runtime, vault)
    if accept_loss and not repair:
        raise ConfigError("a loss is accepted by a repair only", where="--accept-loss", expected="--repair beside it")
    if last is not None and depth is not Depth.SAMPLE:
        raise ConfigError("only a sample begins where the last one did", where="--last", expected="--depth sample")
    if repair:
        if last is not None:
            raise ConfigError("a repair's sample is of the last day", where="--last", expected="no --repair beside it")
        _repair(runtime, name, depth or Depth.FULL, accept_loss=accept_loss, mirror=site, as_json=as_json)
        return
    with count_progress(errors, f"verify {name}", runtime.clock) as progress:
        report = verifying.verified(
            runtime,
            name,
            depth or Depth.STRUCTURE,
            last=last,
            site=site,
            options=VerifyOptions(progress=progress),
        )
    if as_json:
        print_json({"vault": name, "good": report.is_good, **report.__dict__})
    else:
        show.print_verified(name, report)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _repair(runtime: Runtime, name: str, depth: Depth, *, accept_loss: bool, mirror: str | None, as_json: bool) -> None:
    with count_progress(errors, f"repair {name}", runtime.clock) as progress:
        done = keeping.repaired(runtime, name, accept_loss=accept_loss, mirror=mirror, depth=depth, progress=progress)
    if as_json:
        shares = None if done.shares is None else asdict(done.shares)
        print_json({"vault": name, **_repair_facts(done), "shares": shares})
    else:
        show.print_repaired(name, done)
    if done.exit_code:
        raise typer.Exit(done.exit_code)


def _repair_facts(done: RepairReport) -> dict[str, Any]:
    verified = None if done.verified is None else done.verified.__dict__
    return {
        "whole": done.is_whole,
        "healed": done.healed,
        "lost": done.lost,
        "hidden": done.hidden,
        "verified": verified,
    }


@app.command("locks")
@reports_errors
def locks(
    renew: Annotated[bool, typer.Option("--renew", help="Lock what counts for its whole period again.")] = False,
    vault: VaultOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Whether everything that counts is locked as the topology's `lock_days` want it, wherever the vault lies.

    At its site, its mirrors, its witnesses and the sites of its shares.

    Exit codes: 0 it is, 1 something is not, or cannot be told; 2 the topology asks for no locks.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_vault(runtime, vault)
    sites = renewing.looked_at_locks(runtime, name, renew=renew)
    good = all(one.is_good for one in sites)
    if as_json:
        print_json({"vault": name, "good": good, "sites": {one.site: one.to_summary() for one in sites}})
    else:
        show.print_locks(name, sites)
    if not good:
        raise typer.Exit(1)


@app.command("forget")
@reports_errors
def forget(
    backups: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BACKUP]...", help="Ids, how they begin, or entry:17; none: by the topology's `keep`."),
    ] = None,
    source: SourceOption = None,
    last_too: Annotated[
        bool, typer.Option("--last-too", help="Also where nothing is left of a source then; only of named backups.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    vault: VaultOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget backups. Their bytes go with a later `gc`, when nobody else needs them.

    What cannot be read stays until it is named, by entry:NUMBER or id; an id that several have names none of them.

    Exit codes: 0 done, 2 bad input, 3 a legal hold, the last backup of a source, or not the administrator's key.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_vault(runtime, vault)
    freed: int | None = None
    if dry_run:
        plan, freed = keeping.would_forget(runtime, name, backups=backups or (), source=source, last_too=last_too)
    else:
        plan = keeping.forgotten(runtime, name, backups=backups or (), source=source, last_too=last_too)
    if as_json:
        kept = [{**one.to_summary(), "reason": why} for one, why in plan.kept]
        print_json(
            {
                "vault": name,
                "dry_run": dry_run,
                "would_free_bytes": freed,
                "kept": kept,
                "forgotten": [one.to_summary() for one in plan.forgotten],
            }
        )
    else:
        show.print_forgotten(name, plan, would_free=freed)
    show.warn_of_unreadable(show.unreadable_of(one for one, _ in plan.kept), name)


@app.command("gc")
@reports_errors
def collect(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would say and remove.")] = False,
    vault: VaultOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what no live backup needs, and remove what was said so before and whose grace is over.

    Backups may run meanwhile. A dry run counts both, and goes by this machine's clock.

    Exit codes: 0 done, 3 not the administrator's key, 4 the vault is damaged: nothing was removed.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_vault(runtime, vault)
    report = keeping.collected(runtime, name, dry_run=dry_run)
    if as_json:
        print_json({"vault": name, "dry_run": dry_run, **report.__dict__})
    else:
        show.print_collected(name, report, dry_run=dry_run)
    show.warn_of_unreadable(report.unreadable, name)


@app.command("hold")
@reports_errors
def hold(
    backups: Annotated[list[str], typer.Argument(metavar="BACKUP...", help="Ids, how they begin, or entry:17.")],
    release: Annotated[bool, typer.Option("--release", help="Take the hold away.")] = False,
    vault: VaultOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put backups under a legal hold: no retention and no command forgets them.

    Exit codes: 0 done, 2 no such backup, 3 not the administrator's key.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_vault(runtime, vault)
    found = keeping.held(runtime, name, backups, release=release)
    if as_json:
        print_json({"vault": name, "backups": [one.to_summary() for one in found]})
    else:
        show.print_backups(name, found)


@app.command("mirror")
@reports_errors
def mirror(
    repair: Annotated[
        bool, typer.Option("--repair", help="Read the mirrors whole, and write anew what is damaged there.")
    ] = False,
    site: Annotated[str | None, typer.Option("--to", metavar="SITE", help="Only the mirror at this site.")] = None,
    vault: VaultOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring every mirror up to the vault. Needs no key; broken off, run it again.

    What a mirror has is not read. `--repair` does so, with the reader's key or the writer's.

    Exit codes: 0 done, 1 a mirror could not be reached or differs, 4 one of the two was rolled back or is damaged.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_vault(runtime, vault)
    if repair:
        _repair_mirrors(runtime, name, site, as_json=as_json)
        return
    done = backing_up.mirror_everywhere(runtime, name, site=site)
    failed = {site: found for site, found in done.items() if isinstance(found, HoldfastError)}
    if as_json:
        print_json(
            {
                "vault": name,
                "mirrors": {
                    site: found.as_dict() if isinstance(found, HoldfastError) else found.__dict__
                    for site, found in done.items()
                },
            }
        )
    else:
        show.print_mirrored(name, done)
    if failed or any(not isinstance(found, HoldfastError) and found.problems for found in done.values()):
        raise typer.Exit(max((found.exit_code for found in failed.values()), default=1))


def _repair_mirrors(runtime: Runtime, name: str, site: str | None, *, as_json: bool) -> None:
    with count_progress(errors, f"repair the mirrors of {name}", runtime.clock) as progress:
        done = mirror_repairing.mirrors_repaired(runtime, name, site=site, progress=progress)
    if as_json:
        print_json(
            {
                "vault": name,
                "mirrors": {
                    where: found.as_dict()
                    if isinstance(found, HoldfastError)
                    else {"copied": found.copied.copied, **_repair_facts(found.repaired)}
                    for where, found in done.items()
                },
            }
        )
    else:
        show.print_repaired_mirrors(name, done)
    codes = [one.exit_code if isinstance(one, HoldfastError) else one.repaired.exit_code for one in done.values()]
    if any(codes):
        raise typer.Exit(max(codes))


@app.command("status")
@reports_errors
def status(
    group: GroupOption = None,
    verified: Annotated[
        Depth | None,
        typer.Option("--verified", help="Verified at least so deep; by default the vault's `rpo_depth`."),
    ] = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """How old the newest verified backup of each dataset and model is, against what may be lost.

    It warns of vaults that fewer than two other clouds witness.

    Exit codes: 0 every one is new enough, 1 one is not or cannot be told, 2 bad input.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_group(runtime, group)
    vaults = opening.vaults_of(runtime, name)
    points = [point for vault in vaults for point in keeping.recovery_points(runtime, name, vault, at_least=verified)]
    warnings = [line for vault in vaults for line in advice_on(runtime.topology, vault)]
    if as_json:
        print_json(
            {
                "group": name,
                "warnings": warnings,
                "points": [
                    {
                        "vault": point.vault,
                        "subject": point.subject,
                        "newest": point.newest.backup_id if point.newest else None,
                        "verified": point.backup.backup_id if point.backup else None,
                        "verified_at": point.verified_at,
                        "depth": point.depth,
                        "age_seconds": point.age_seconds,
                        "rpo_seconds": point.rpo_seconds,
                        "met": point.met,
                        "error": point.error,
                        "unreadable": dict(point.unreadable),
                    }
                    for point in points
                ],
            }
        )
    else:
        show.print_points(points)
        show.print_warnings(warnings)
    for vault, found in {point.vault: point.unreadable for point in points}.items():
        show.warn_of_unreadable(found, vault)
    if not all(point.met for point in points):
        raise typer.Exit(1)


@keys_app.command("show")
@reports_errors
def keys_show(vault: VaultOption = None, topology: TopologyOption = None, as_json: JsonOption = False) -> None:
    """Who can open what. Opens nothing.

    Exit codes: 0 shown, 2 bad input.
    """
    runtime = Runtime.from_environment(topology)
    facts = keeping.key_facts(runtime, choose_vault(runtime, vault))
    print_json(facts) if as_json else show.print_keys(facts)


@keys_app.command("rotate")
@reports_errors
def keys_rotate(
    role: Annotated[
        list[str] | None, typer.Option("--role", help="writer, reader or admin; may be repeated. None: all.")
    ] = None,
    new_generation: Annotated[
        bool, typer.Option("--new-generation", help="Also seal new content to a new key pair.")
    ] = False,
    new_signer: Annotated[
        bool, typer.Option("--new-signer", help="Also give writers a new signing key; the old one signs no more.")
    ] = False,
    new_admin: Annotated[
        bool, typer.Option("--new-admin", help="Also give administrators a new signing key; the old one signs no more.")
    ] = False,
    vault: VaultOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Seal the key sets anew for the recipients the topology names now. Nothing else is encrypted anew.

    Exit codes: 0 done, 2 bad input, 3 no key at hand opens the old ones.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_vault(runtime, vault)
    roles = role or (["writer", "reader", "admin"] if not (new_generation or new_signer or new_admin) else [])
    facts = keeping.rotated(
        runtime, name, roles, new_generation=new_generation, new_signer=new_signer, new_admin=new_admin
    )
    print_json(facts) if as_json else show.print_rotated(facts)


@keys_app.command("new")
@reports_errors
def keys_new(
    file: Annotated[Path, typer.Argument(help="Written, readable for its owner only; must not exist.")],
    offline: Annotated[bool, typer.Option("--offline", help="An age identity, to be kept offline.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a new secret, or an age identity, for a topology's `keys`.

    Exit codes: 0 made, 2 the file is there.
    """
    from holdfast.engine.vault.recipients import AgeRecipient

    made = AgeRecipient.make() if offline else None
    text = f"# public key: {made.key_name}\n{made.identity}\n" if made else f"{os.urandom(32).hex()}\n"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError("the file cannot be made", where=str(file), found=str(error.strerror)) from None
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    facts = {"file": str(file), "recipient": f"age:{made.key_name}" if made else f"file:{file}"}
    print_json(facts) if as_json else show.print_new_key(facts, offline=offline)
