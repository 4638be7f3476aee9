"""What moves a dataset's bytes: Holdfast's own copy, or a provider's service that stages them for it.

What a run cannot do of a policy is refused before anything moves, never passed over.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from uuid import uuid4

import pyarrow.compute as pc

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.pipeline.planning import plan
from holdfast.engine.pipeline.replicas import allowed_sites
from holdfast.engine.replication.movers import Adopted, Hop, MoveFailed, Mover, adopt, await_end, open_mover
from holdfast.engine.replication.plan import Action, rows_of
from holdfast.engine.replication.sync import SyncSite
from holdfast.engine.replication.target import Run
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot.keys import VERSIONS, data_folder
from holdfast.errors import ConfigError

#: The longest a service may take for one run, and between two looks at it.
MOVE_SECONDS, POLL_SECONDS = 12 * 3600.0, 15.0
log = logging.getLogger(__name__)


def movers_for(runtime: Runtime, group: str, dataset: str, source: str, run_id: str) -> dict[str, tuple[Hop, Mover]]:
    """Per target what moves the bytes there, if not Holdfast itself.

    A service serves some pairs of clouds; the other targets get the dataset by Holdfast's own copy.

    Raises:
        ConfigError: the policy asks for what a run cannot do, or the service can serve no target; nothing was moved.
    """
    policy = runtime.topology.dataset(dataset).sync
    where = f"datasets.{dataset}.sync"
    require_one_way(runtime, group, dataset)
    if policy.engine == "own":
        return {}
    if policy.encrypt is not None:
        raise ConfigError(
            "a provider's service cannot encrypt on its way",
            where=f"{where}.engine",
            expected="`own` with `encrypt`",
            found=f"`{policy.engine}`",
        )
    targets = [site for site in allowed_sites(runtime, group, dataset) if site != source]
    hops = {site: _hop(runtime, dataset, source, site, run_id) for site in targets}
    found = {site: open_mover(policy.engine, hop) for site, hop in hops.items()}
    usable = {site: (hops[site], mover) for site, mover in found.items() if not isinstance(mover, str)}
    if not usable:
        raise ConfigError(
            f"`{policy.engine}` cannot move the dataset anywhere",
            where=f"{where}.engine",
            expected="a pair of sites it serves, and what it needs in their connections",
            found="; ".join(f"{source} to {site}: {why}" for site, why in found.items()) or "no target",
            fix="Use `own`, or give the service what it needs (docs/reference/sync.md)",
        )
    return usable


def require_one_way(runtime: Runtime, group: str, dataset: str) -> None:
    """Raises ConfigError for a dataset with writers at two sites: only a whole merge may bring what they wrote."""
    policy = runtime.topology.dataset(dataset).sync
    if policy.direction == "active-active":
        raise ConfigError(
            "a dataset with writers at two sites is neither copied in shards nor by a service",
            where=f"datasets.{dataset}.sync.direction",
            expected="`one-way`",
            found=f"`{policy.direction}` in group {group}",
            fix=f"`holdfast sync run --group {group} --dataset {dataset}` and ReplicateDatasetOperator merge it, by "
            "its `winner`; `holdfast sync conflicts` says beforehand what both changed (docs/reference/sync.md)",
        )


def stage(
    runtime: Runtime, group: str, dataset: str, state: EpochState, *, stop: threading.Event | None = None
) -> Mapping[str, Adopted]:
    """Have the dataset's service stage what each target it serves lacks, and take over what is right.

    A service that fails is no failure of the run: the sync that follows copies what is missing itself.

    Raises:
        ConfigError: see `movers_for`, or the service refuses the request.
        Interrupted: ``stop`` was set; the transfer was cancelled.
        StoreUnavailable: the source did not answer.
    """
    run_id = uuid4().hex
    movers = movers_for(runtime, group, dataset, state.active_site, run_id)
    if not movers:
        return {}
    topology, settings = runtime.topology, runtime.topology.dataset(dataset)
    made = plan(runtime, group, dataset, store=False).plan
    run = Run(
        source=SyncSite(state.active_site, runtime.store(state.active_site, flow=group)),
        dataset=dataset,
        folder=settings.path,
        policy=settings.sync,
        epoch=state.epoch,
        residency=topology.residency_of(dataset),
        sites=topology.sites,
        clock=runtime.clock,
        run_id=run_id,
    )
    done: dict[str, Adopted] = {}
    for target in made.targets:
        if target.site not in movers:
            continue
        hop, mover = movers[target.site]
        copies = rows_of(target.work, Action.COPY)
        copies = copies.filter(pc.equal(copies["wave"], 0))
        if not copies.num_rows:
            continue
        _move(runtime, mover, [key.removeprefix(hop.source_folder) for key in copies["key"].to_pylist()], stop)
        site = SyncSite(target.site, runtime.store(target.site, flow=group))
        done[target.site] = adopt(run, site, copies, hop.staging)
        log.info("%s to %s by %s: %s", dataset, target.site, mover.name, done[target.site])
    return done


def _move(runtime: Runtime, mover: Mover, names: list[str], stop: threading.Event | None) -> None:
    try:
        handle = mover.begin(names)
        await_end(
            mover,
            handle,
            clock=runtime.clock,
            deadline_seconds=MOVE_SECONDS,
            poll_seconds=POLL_SECONDS,
            stop=stop,
        )
    except MoveFailed as error:
        log.warning("What %s did not bring is copied by Holdfast: %s", mover.name, error)


def _hop(runtime: Runtime, dataset: str, source: str, target: str, run_id: str) -> Hop:
    topology = runtime.topology
    folder = data_folder(topology.dataset(dataset).path) + "/"
    here, there = topology.site(source), topology.site(target)
    return Hop(
        source_site=source,
        source=here,
        source_connection=runtime.connections.get(here.connection),
        target_site=target,
        target=there,
        target_connection=runtime.connections.get(there.connection),
        source_folder=folder,
        staging=f"{folder}{VERSIONS}/{run_id[:16]}/",
    )
