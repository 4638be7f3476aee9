"""What follows a commit: the checkpoint goes to every standby, old ones are retired, the pace is set anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.checkpoint.facts import replica_facts
from holdfast.engine.checkpoint.format import CheckpointManifest
from holdfast.engine.checkpoint.guard import WriteGuard
from holdfast.engine.checkpoint.housekeeping import Housekeeper, Retention
from holdfast.engine.checkpoint.pacing import Pace
from holdfast.engine.checkpoint.replicator import Replicator
from holdfast.engine.checkpoint.writer import WriterStatus
from holdfast.engine.objectstore.interface import ObjectStore


class AfterCommit:
    """Of one run in one epoch, at its own site and at its standbys.

    Args:
        store, site: the own site's.
        standbys: buckets by site name.
        retention: None: everything is kept.
        pace: is told what replication took.
        forget: the writer's `forget`.
        urgent: whether a collection is to make way, at whichever site.
        keep_every, retry_seconds: see `Replicator`.
    """

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        *,
        epoch: int,
        site: str,
        standbys: Mapping[str, ObjectStore],
        guard: WriteGuard,
        clock: Clock,
        retention: Retention | None,
        pace: Pace | None,
        forget: Callable[[], None],
        urgent: Callable[[], bool],
        keep_every: int,
        retry_seconds: float,
    ) -> None:
        self._clock = clock
        self._site = site
        self._pace = pace
        self._keepers: dict[str, Housekeeper] = {}
        if retention is not None:
            self._keepers = {
                name: Housekeeper(
                    bucket,
                    run,
                    retention,
                    epoch=epoch,
                    site=name,
                    guard=guard,
                    clock=clock,
                    forget=forget if name == site else lambda: None,
                    urgent=urgent,
                )
                for name, bucket in {site: store, **standbys}.items()
            }
        self._replicators = {
            name: Replicator(
                store,
                target,
                name,
                run,
                guard=guard,
                clock=clock,
                keep_every=keep_every,
                retry_seconds=retry_seconds,
                arrived=partial(self._arrived, name),
            )
            for name, target in standbys.items()
        }

    @property
    def standbys(self) -> frozenset[str]:
        """The sites that get every checkpoint."""
        return frozenset(self._replicators)

    def start(self, parent: CheckpointManifest | None) -> None:
        """``parent``: what this epoch goes on from; it must survive this site as well."""
        for replicator in self._replicators.values():
            replicator.start()
            if parent is not None:
                replicator.offer(parent, {})

    def offer(self, manifest: CheckpointManifest, blobs: Mapping[str, bytes], written: WriterStatus) -> None:
        """Have a committed checkpoint replicated; returns at once."""
        for replicator in self._replicators.values():
            replicator.offer(manifest, blobs)
        if self._pace is not None:
            self._pace.saved(
                upload_seconds=written.save_seconds or 0.0,
                changed_bytes=written.changed_bytes,
                now=self._clock.monotonic(),
            )

    def keep_house(self) -> None:
        """Retire old checkpoints here when it is time; called in the writer's thread, when a save is over."""
        if self._site in self._keepers:
            self._keepers[self._site].committed()

    def wait(self, step: int, seconds: float) -> dict[str, bool]:
        """Wait for a checkpoint of this step or a later one to be at the standbys; says for each whether it is."""
        deadline = self._clock.monotonic() + seconds
        return {
            site: replicator.wait(step, max(0.0, deadline - self._clock.monotonic()))
            for site, replicator in self._replicators.items()
        }

    def close(self) -> None:
        for replicator in self._replicators.values():
            replicator.close()

    def facts(self, *, trained_step: int, trained_at: datetime | None) -> dict[str, Any]:
        """``replicas``, ``interval`` and ``retention`` of the heartbeat."""
        return {
            "replicas": {
                site: replica_facts(replicator.status(), trained_step=trained_step, trained_at=trained_at)
                for site, replicator in self._replicators.items()
            },
            "interval": self._pace.facts() if self._pace is not None else None,
            "retention": {site: keeper.facts() for site, keeper in self._keepers.items()},
        }

    def _arrived(self, site: str, seconds: float) -> None:
        """In a replicator's thread, after each checkpoint it brought to its site."""
        if self._pace is not None:
            self._pace.replicated(site, seconds)
        if site in self._keepers and self._keepers[site].committed():
            self._replicators[site].forget()
