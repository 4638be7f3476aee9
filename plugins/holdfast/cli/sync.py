"""``holdfast sync``: bring datasets to the other sites, look where each stands, check the bytes, go back."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from holdfast.cli import sync_tables as show
from holdfast.cli.groups import GroupOption, choose_group
from holdfast.cli.output import JsonOption, TopologyOption, console, errors, print_json, reports_errors
from holdfast.cli.sync_progress import stopping, sync_progress
from holdfast.engine.pipeline import conflicts as both_sites
from holdfast.engine.pipeline import going_back, planning, removals, replicas, sync
from holdfast.engine.pipeline.removals import Cleaned
from holdfast.engine.replication.sync import SyncReport
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError, HoldfastError, Refused

app = typer.Typer(
    help="Datasets at the other sites: plan, run, status, verify, snapshots, rollback, diff, conflicts.",
    no_args_is_help=True,
)

DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="One dataset of the group; by default every one of them.")
]
OneDatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="The dataset; may be left out when the group has one.")
]
SiteOption = Annotated[str | None, typer.Option("--site", help="A site of the group.")]
SnapshotOption = Annotated[
    str | None, typer.Option("--snapshot", help="A snapshot's id, or how it begins; by default the newest.")
]


@dataclass(frozen=True)
class _Outcome:
    """One dataset's sync: what it did, or why it did not."""

    dataset: str
    report: SyncReport | None
    cleaned: tuple[Cleaned, ...]
    error: HoldfastError | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "ok": self.error is None,
            "report": self.report,
            "deletes": self.cleaned,
            "error": self.error.as_dict() if self.error else None,
        }


@app.command("plan")
@reports_errors
def plan(
    group: GroupOption = None,
    dataset: DatasetOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a sync would do: objects, bytes, cost and time per site, and what is refused and why. Nothing is copied.

    The plan is stored at the active site, under sync-plans/.

    Exit codes: 0 planned, 1 a site did not answer, so the plan is not about it; 2 bad input, 4 no majority.
    """
    runtime = Runtime.from_environment(topology)
    _plan(runtime, choose_group(runtime, group), dataset, as_json)


@app.command("run")
@reports_errors
def run(
    group: GroupOption = None,
    dataset: DatasetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only plan, as `holdfast sync plan`.")] = False,
    approve_deletes: Annotated[
        str | None,
        typer.Option(
            "--approve-deletes",
            metavar="ID",
            help="Let exactly the deletes be marked, or the objects be dropped by a merge, that a run named.",
        ),
    ] = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take what lies at the active site, check it, publish it there and at every other site, verified.

    Of a dataset with writers at two sites (`direction: active-active` with a `winner`) both sites' changes are merged;
    what was overruled is named.

    Ctrl-C ends it cleanly; run it again and it goes on: what is copied is not copied twice, nothing half done is
    visible to anybody.

    Exit codes: 0 every site has it, 1 some site does not (the others do), 2 bad input, 3 refused by a rule or deletes
    wait for a person, 4 no majority, 130 stopped by Ctrl-C.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_group(runtime, group)
    if dry_run:
        _plan(runtime, name, dataset, as_json)
        return
    done: list[_Outcome] = []
    with stopping() as stop:
        for one in replicas.datasets_of(runtime, name, dataset):
            done.append(_run_one(runtime, name, one, stop, approve_deletes))
            if isinstance(done[-1].error, sync.SyncInterrupted):
                break
    failed = [one.error for one in done if one.error is not None]
    if as_json:
        print_json({"group": name, "ok": not failed, "datasets": [one.as_dict() for one in done]})
    for each in done:
        if each.report is not None and not as_json:
            show.print_report(each.dataset, each.report)
            show.print_cleaned(each.cleaned)
        if each.error is not None:
            errors.print(f"holdfast: {each.error}", style="red", markup=False)
    if failed:
        raise typer.Exit(failed[-1].exit_code if isinstance(failed[-1], sync.SyncInterrupted) else failed[0].exit_code)


def _plan(runtime: Runtime, group: str, dataset: str | None, as_json: bool) -> None:
    made = [planning.plan(runtime, group, one) for one in replicas.datasets_of(runtime, group, dataset)]
    if as_json:
        print_json(
            {
                "group": group,
                "plans": [
                    {
                        **one.plan.to_json(),
                        "unreachable": dict(one.unreachable),
                        "refused_objects": one.refused_objects,
                        "not_held": dict(one.not_held),
                    }
                    for one in made
                ],
            }
        )
    else:
        for one in made:
            show.print_plan(one)
            if runtime.topology.dataset(one.plan.dataset).sync.direction == "active-active":
                console.print("  What was written at the other site is not in this plan: `holdfast sync conflicts`.")
    if any(one.unreachable for one in made):
        raise typer.Exit(1)


def _run_one(runtime: Runtime, group: str, dataset: str, stop: threading.Event, approve: str | None) -> _Outcome:
    report: SyncReport | None = None
    cleaned: tuple[Cleaned, ...] = ()
    try:
        with sync_progress(errors, dataset, runtime.clock) as progress:
            report = sync.run(runtime, group, dataset, progress=progress, stop=stop, approve=approve)
        sync.require_synced(runtime, group, dataset, report)
        cleaned = removals.clean(runtime, group, dataset, approve=approve)
        waiting = [f"{one.site}: {one.refused}" for one in cleaned if one.approval_id is not None]
        if waiting:
            raise Refused("every site has the data, but removing needs a person", where=dataset, found=waiting[0])
    except HoldfastError as error:
        return _Outcome(dataset, report, cleaned, error)
    return _Outcome(dataset, report, cleaned, None)


@app.command("status")
@reports_errors
def status(
    group: GroupOption = None,
    dataset: DatasetOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Where every site stands: its newest snapshot, how far it lies behind, when it was verified.

    Exit codes: 0 shown, 1 a site did not answer (it is shown all the same), 2 bad input, 4 no majority.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_group(runtime, group)
    found = [replicas.status(runtime, name, one) for one in replicas.datasets_of(runtime, name, dataset)]
    if as_json:
        print_json(found)
    else:
        for one in found:
            show.print_status(one)
    if any(site.error for one in found for site in one.sites):
        raise typer.Exit(1)


@app.command("verify")
@reports_errors
def verify(
    group: GroupOption = None,
    dataset: DatasetOption = None,
    site: SiteOption = None,
    snapshot: SnapshotOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every byte of a snapshot back and hash it, at one site or at all that may hold it.

    Exit codes: 0 every byte is right, 1 damage, or a site that could not be read; 2 bad input, 4 no majority.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_group(runtime, group)
    found: dict[str, list[replicas.SiteVerification]] = {}
    for one in replicas.datasets_of(runtime, name, dataset):
        found[one] = (
            [replicas.verify_site(runtime, name, one, site, snapshot_id=snapshot)]
            if site is not None
            else list(replicas.verify_everywhere(runtime, name, one, snapshot_id=snapshot))
        )
    ok = all(checked.ok for each in found.values() for checked in each)
    if as_json:
        print_json({"group": name, "ok": ok, "datasets": found})
    else:
        show.print_verified(found)
    if not ok:
        raise typer.Exit(1)


@app.command("snapshots")
@reports_errors
def snapshots(
    group: GroupOption = None,
    dataset: OneDatasetOption = None,
    site: SiteOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show at most so many, the newest first.")] = 20,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """The snapshots a site could be read or rolled back to, newest first."""
    runtime = Runtime.from_environment(topology)
    name = choose_group(runtime, group)
    found = replicas.snapshots(runtime, name, _one(runtime, name, dataset), site=site, limit=limit)
    if as_json:
        print_json(list(found))
    else:
        show.print_snapshots(found)


@app.command("rollback")
@reports_errors
def rollback(
    snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="A snapshot's id, or how it begins.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the new snapshot's labels.")],
    group: GroupOption = None,
    dataset: OneDatasetOption = None,
    restore_live: Annotated[
        bool, typer.Option("--restore-live", help="Also make the objects in the folder those of the snapshot.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish an earlier snapshot's content as the newest one, at the active site and at the others.

    History is not rewritten: the snapshot that is left stays, and can be gone back to in turn. Readers through
    snapshots see the earlier content at once; the folder itself follows only with --restore-live. Stop the dataset's
    writers first: what they change after it is new data, and the next sync publishes it.

    Exit codes: 0 every site has it, 1 some site does not (run `sync run`), 2 bad input, 3 refused, 4 no majority.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_group(runtime, group)
    one = _one(runtime, name, dataset)
    if not yes:
        typer.confirm(f"Make {one} of {name} what it was in snapshot {snapshot}?", abort=True, err=True)
    done = going_back.roll_back(runtime, name, one, to=snapshot, reason=reason, restore_live=restore_live)
    if as_json:
        print_json(done)
    else:
        show.print_rollback(done)
    if any(target.error for target in done.targets):
        raise typer.Exit(1)


@app.command("diff")
@reports_errors
def diff(
    left: Annotated[
        str | None, typer.Option("--left", help="SITE, SNAPSHOT or SITE@SNAPSHOT; default: newest at the active site.")
    ] = None,
    right: Annotated[
        str | None, typer.Option("--right", help="The same; default: the newest at the first other site.")
    ] = None,
    group: GroupOption = None,
    dataset: OneDatasetOption = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """What one snapshot has over another, by path and digest. Only manifests are read.

    Exit codes: 0 they are the same, 1 they differ, 2 bad input, 4 no majority.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_group(runtime, group)
    found = replicas.compare(
        runtime, name, _one(runtime, name, dataset), left=_place(runtime, left), right=_place(runtime, right)
    )
    if as_json:
        parts = ("added", "changed", "removed")
        print_json({"same": found.is_empty, **{part: getattr(found, part).to_pylist() for part in parts}})
    else:
        show.print_diff(found)
    if not found.is_empty:
        raise typer.Exit(1)


@app.command("conflicts")
@reports_errors
def conflicts(
    group: GroupOption = None,
    dataset: OneDatasetOption = None,
    peer: Annotated[
        str | None, typer.Option("--peer", help="The other site; by default the winner, or the only standby.")
    ] = None,
    winner: Annotated[
        str | None, typer.Option("--winner", help="What if this site's change won? By default the policy's winner.")
    ] = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """What the active site and another one both changed since the last snapshot they share. Nothing is merged here.

    Reads what changed at either site; writes nothing. What lay at the other site when a sync last reached it is not
    shown.

    Exit codes: 0 no conflict, or a winner settles each; 1 the sites share no snapshot, or one did not answer; 2 bad
    input, 3 conflicts and no winner, 4 no majority.
    """
    runtime = Runtime.from_environment(topology)
    name = choose_group(runtime, group)
    found = both_sites.report(runtime, name, _one(runtime, name, dataset), peer=peer, winner=winner)
    if as_json:
        print_json({"conflicts": found.conflicts, "unsettled": found.unsettled, "report": found})
    else:
        show.print_conflicts(found)
    if found.unsettled:
        raise typer.Exit(3)


def _one(runtime: Runtime, group: str, dataset: str | None) -> str:
    """The dataset that was named, or the only one of the group."""
    found = replicas.datasets_of(runtime, group, dataset)
    if len(found) != 1:
        raise ConfigError(
            "which dataset is not clear",
            where="--dataset",
            expected=f"one of {', '.join(found) or '(none)'}",
            found="nothing",
            fix="Name it with --dataset",
        )
    return found[0]


def _place(runtime: Runtime, text: str | None) -> tuple[str | None, str | None]:
    """``SITE``, ``SNAPSHOT`` or ``SITE@SNAPSHOT`` as site and snapshot."""
    if text is None:
        return None, None
    site, at, snapshot = text.partition("@")
    if at:
        return site or None, snapshot or None
    return (site, None) if site in runtime.topology.sites else (None, site)
