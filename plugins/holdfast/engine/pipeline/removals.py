"""Removing at the replicas what left the source: marked late, removed later, and only while the source is healthy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

import pyarrow.compute as pc

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.config.sync import Deletes
from holdfast.engine.config.writers import written_sites
from holdfast.engine.health import Verdict, open_watch
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.pipeline.replicas import allowed_sites, datasets_of
from holdfast.engine.replication.deletes import DeletesNeedApproval, DeletesRefused, SourceState, mark, remove
from holdfast.engine.replication.plan.estimate import looks_truncated
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import CommitRecord, Manifest, diff, iter_selectable, load_manifest
from holdfast.errors import HoldfastError

#: Looks at the source before it counts as healthy or not: the first may come before any heartbeat was read.
_LOOKS = 3
#: So many earlier snapshots are compared with the newest, to tell a cut-off listing from one that shrank.
_EARLIER = 5


@dataclass(frozen=True)
class Cleaned:
    """What became of deletes at one site. ``refused``: nothing was marked or removed there, and why."""

    site: str
    marked_objects: int = 0
    removed_objects: int = 0
    removed_bytes: int = 0
    waiting_objects: int = 0
    still_needed_objects: int = 0
    refused: str | None = None
    #: What a person passes on to let exactly these objects be marked.
    approval_id: str | None = None


def clean(runtime: Runtime, group: str, dataset: str, *, approve: str | None = None) -> tuple[Cleaned, ...]:
    """Mark at every replica what left the dataset, and remove what was marked long enough ago.

    Nothing happens unless the dataset's policy has deletes on. A site where a rule forbids it, or that does not
    answer, is told and does not stop the others.

    Args:
        approve: the ``approval_id`` of an earlier refusal, from a person who looked.

    Raises:
        UnknownName, ConfigError, GroupNotInitialised, NoMajority: nothing was done.
        StoreUnavailable: the active site did not answer.
    """
    datasets_of(runtime, group, dataset)
    policy = runtime.topology.dataset(dataset).sync.deletes
    if not policy.enabled:
        return ()
    state = require_active(runtime, group)
    source = SourceState(
        site=state.active_site,
        healthy=_is_healthy(runtime, group, state.active_site),
        listing_complete=_is_whole(runtime.store(state.active_site), dataset, state, policy),
    )
    others = [site for site in allowed_sites(runtime, group, dataset) if site != state.active_site]
    return tuple(_clean_site(runtime, group, dataset, site, state, policy, source, approve) for site in others)


def _clean_site(
    runtime: Runtime,
    group: str,
    dataset: str,
    site: str,
    state: EpochState,
    policy: Deletes,
    source: SourceState,
    approve: str | None,
) -> Cleaned:
    store = runtime.store(site, flow=group)
    # Where writers write, what lies at an own key is theirs: overruled bytes stay, and no removal looks like theirs.
    live = site in written_sites(runtime.topology, group, dataset)

    def guard() -> None:
        now = require_active(runtime, group)
        if (now.epoch, now.active_site) != (state.epoch, state.active_site):
            raise DeletesRefused(
                "the active site changed while objects were removed",
                where=f"{dataset} at {site}",
                expected=f"{state.active_site} in epoch {state.epoch}",
                found=f"{now.active_site} in epoch {now.epoch}",
            )

    try:
        marked = mark(
            store,
            dataset,
            site=site,
            epoch=state.epoch,
            policy=policy,
            source=source,
            clock=runtime.clock,
            approve=approve,
            live=live,
        )
        done = remove(
            store,
            dataset,
            site=site,
            epoch=state.epoch,
            policy=policy,
            source=source,
            clock=runtime.clock,
            live=live,
            guard=guard,
        )
    except DeletesNeedApproval as error:
        return Cleaned(site, refused=str(error), approval_id=error.approval_id)
    except HoldfastError as error:
        return Cleaned(site, refused=str(error))
    return Cleaned(
        site=site,
        marked_objects=sum(len(one.objects) for one in marked),
        removed_objects=done.removed_objects,
        removed_bytes=done.removed_bytes,
        waiting_objects=done.waiting_objects,
        still_needed_objects=done.still_needed_objects,
    )


def _is_healthy(runtime: Runtime, group: str, site: str) -> bool | None:
    """Whether the group's own rules call a site healthy now; ``None``: they do not know."""
    stores = runtime.stores(runtime.topology.group(group).sites.all())
    try:
        watch = open_watch(runtime.topology, group, stores, clock=runtime.clock)
        for verdicts in islice(watch.verdicts(), _LOOKS):
            verdict = verdicts[site].verdict
            if verdict is Verdict.HEALTHY:
                return True
    except HoldfastError:
        return None
    return None if verdict is Verdict.UNKNOWN else False


def _is_whole(store: ObjectStore, dataset: str, state: EpochState, policy: Deletes) -> bool | None:
    """Whether the newest snapshot looks like a whole listing beside the ones before it; ``None``: there is none.

    Those of the time a delete waits are compared, so that a listing cut off once does not count as whole because the
    next one is cut off at the same place.
    """
    line = iter_selectable(store, dataset, epoch=state.epoch)
    newest = next(line, None)
    if newest is None:
        return None
    now = load_manifest(store, newest)
    return all(_looks_whole(now, load_manifest(store, one)) for one in _recent(line, newest, policy))


def _recent(line: Iterator[CommitRecord], newest: CommitRecord, policy: Deletes) -> Iterator[CommitRecord]:
    """The snapshot before the newest in any case, and those of the delay before it."""
    since = newest.taken_at - timedelta(seconds=policy.delay_seconds)
    for number, one in enumerate(islice(line, _EARLIER)):
        if number and one.taken_at < since:
            return
        yield one


def _looks_whole(now: Manifest, before: Manifest) -> bool:
    gone = diff(now, before).removed
    last = pc.max(now.table["path"])
    tail = int(pc.sum(pc.greater(gone["path"], last)).as_py() or 0) if last.is_valid else gone.num_rows
    cut_off = looks_truncated(listed=now.object_count, known=before.object_count, removed=gone.num_rows, tail=tail)
    return cut_off is None
