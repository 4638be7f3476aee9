"""The source's change feed in a run: polled before, kept from coming again during, acknowledged after the commit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from holdfast.engine.config import Connection
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.replication.feeds import (
    ChangeFeed,
    FeedError,
    FeedState,
    FeedStateConflict,
    Observation,
    load_state,
    observe,
    open_feed,
    renew,
    settle,
)
from holdfast.engine.replication.sync import SyncProgress
from holdfast.engine.runtime import Runtime

#: Between two requests not to send again what was polled.
_RENEW_SECONDS = 120.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fed:
    """What a feed said at the beginning of a run."""

    feed: ChangeFeed
    state: FeedState
    seen: Observation
    bucket: ObjectStore


def look_by_feed(runtime: Runtime, group: str, dataset: str, site: str) -> Fed | None:
    """What the dataset's feed says of its source; ``None``: the dataset has none, so the folder is to be listed.

    Raises:
        ConfigError: the feed's URI is wrong, there is no such feed, or no right to read it.
        StoreUnavailable: the source did not answer.
    """
    settings = runtime.topology.dataset(dataset)
    uri = settings.sync.feed
    if uri is None:
        return None
    here = runtime.topology.site(site)
    access = runtime.access(site)
    opened = partial(
        open_feed,
        connection=access if isinstance(access, Connection) else runtime.connections.get(here.connection),
        site_name=site,
        site=here,
        folder=settings.path,
        access=None if isinstance(access, Connection) else access,
    )
    feed = opened(uri)
    inventory = None if settings.sync.inventory is None else opened(settings.sync.inventory)
    bucket = runtime.store(site, flow=group)
    state = load_state(bucket, dataset=dataset, site=site, feed=feed.identity)
    seen = observe(
        feed,
        state,
        source=bucket,
        folder=settings.path,
        policy=settings.sync,
        clock=runtime.clock,
        inventory=inventory,
    )
    if seen.why_full is not None:
        log.info("%s at %s was listed in full: %s", dataset, site, seen.why_full)
    if seen.report is not None and seen.report.missed:
        log.warning(
            "The feed of %s at %s missed %d of %d changes, e.g. %s",
            dataset,
            site,
            seen.report.missed,
            seen.report.changed,
            ", ".join(seen.report.sample[:3]),
        )
    return Fed(feed, state, seen, bucket)


def keeping(
    fed: Fed | None, runtime: Runtime, progress: Callable[[SyncProgress], None] | None
) -> Callable[[SyncProgress], None] | None:
    """The progress callback of a run that also keeps what was polled from coming again while it runs."""
    if fed is None:
        return progress
    renewed = [runtime.clock.monotonic()]

    def tell(seen: SyncProgress) -> None:
        if progress is not None:
            progress(seen)
        if runtime.clock.monotonic() - renewed[0] < _RENEW_SECONDS:
            return
        renewed[0] = runtime.clock.monotonic()
        try:
            renew(fed.feed, fed.seen)
        except FeedError as error:
            log.warning("The feed will send again what this run takes in: %s", error)

    return tell


def account(runtime: Runtime, fed: Fed | None, snapshot_id: str | None) -> None:
    """After the commit: record what is accounted for and acknowledge it. What cannot be now comes again."""
    if fed is None or snapshot_id is None:
        return
    try:
        settle(fed.bucket, fed.feed, fed.state, fed.seen, snapshot_id=snapshot_id, clock=runtime.clock)
    except (FeedStateConflict, FeedError) as error:
        log.warning("The feed's changes will come again: %s", error)
