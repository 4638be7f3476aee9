"""The site agent: holds its site's leases, sends its heartbeat, watches its peers and serves its model.

Each of these runs in a thread of its own and survives whatever the stores do; without a majority the lease runs out and
the site fences itself.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from holdfast.engine.agent.heartbeats import HeartbeatSender
from holdfast.engine.agent.model import Loaded, ModelHolder, ModelSource, SnapshotModelSource
from holdfast.engine.agent.predictor import LOADERS, Loader, import_xgboost
from holdfast.engine.authority import EpochStore, Lease, LeaseStatus, RankedRegister
from holdfast.engine.config import Detection, Group
from holdfast.engine.health import GroupBeat, Heartbeat, Lookout, Observation, open_lookout
from holdfast.engine.objectstore import open_store
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.timeouts import Timeouts
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError, HoldfastError

log = logging.getLogger("holdfast.agent")

#: How often the model is selected anew: while it is selected in this epoch, and while an active site waits for one.
_MODEL_INTERVAL_SECONDS = 2.0
_MODEL_WAIT_SECONDS = 0.25
_LONGEST_POLL_SECONDS = 5.0


class SiteAgent:
    """Everything one site runs besides its training jobs.

    Args:
        runtime: topology, connections and clock, with the addresses and credentials of this site.
        site: the site this runs at.
        service: the service to answer for; by default the only one with an endpoint here.
        stores: per site its store; by default opened with timeouts well below T_fence.
        epochs: makes the epoch store of a group; by default the ranked register over ``stores``.
        model_source: where the model comes from; by default this site's bucket.
        loaders: how models are loaded, by file name.

    Raises:
        UnknownName: no such site or service.
        ConfigError: the site is in no group, or it is not clear which service it answers for.
    """

    def __init__(
        self,
        runtime: Runtime,
        site: str,
        *,
        service: str | None = None,
        stores: Mapping[str, ObjectStore] | None = None,
        epochs: Callable[[str], EpochStore] | None = None,
        model_source: ModelSource | None = None,
        loaders: Mapping[str, Loader] = LOADERS,
    ) -> None:
        topology, clock = runtime.topology, runtime.clock
        topology.site(site)
        self.site = site
        self.agent_id = uuid.uuid4().hex
        self._runtime, self._clock = runtime, clock
        self._groups = {name: g for name, g in topology.groups.items() if site in g.sites.all()}
        if not self._groups:
            raise ConfigError(
                "the site is in no group",
                where=f"site {site}",
                expected="a group that names it",
                found=", ".join(topology.groups) or "no groups",
            )
        self._detection = _strictest([group.detection for group in self._groups.values()])
        peers = tuple(dict.fromkeys(name for g in self._groups.values() for name in g.sites.all()))
        self._stores = dict(stores) if stores is not None else self._open_stores(peers)
        make = epochs or self._register
        self._leases = {name: self._lease(name, group, make(name)) for name, group in self._groups.items()}
        self.service, self._service_group = self._choose_service(service)
        self._models: ModelHolder | None = None
        if self.service is not None:
            source = model_source or SnapshotModelSource(runtime.store(site), topology.service(self.service).model)
            self._models = ModelHolder(source, loaders=loaders)
        self._model_trouble = "no model was looked for yet"
        self._model_due = 0.0
        self._nudged = False
        self._lookout: Lookout = open_lookout(
            topology,
            peers,
            self._stores,
            detection=self._detection,
            vantage=site,
            clock=clock,
            services=tuple(dict.fromkeys(s for g in self._groups.values() for s in g.services)),
        )
        self._observations: tuple[Observation, ...] = ()
        self._sender = HeartbeatSender(self._stores)
        self._sequence = 0
        self._stop = threading.Event()
        self._nudges = [threading.Event() for _ in (*self._leases, "model")]

    # -- what the service asks ---------------------------------------------------------------------------------------

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether this site can do what its role asks, and what it knows of itself."""
        status = self._status()
        refusal = self.refusal(status)
        able = status.role in ("standby", "witness") or refusal is None
        held = self._models.for_epoch(status.epoch) if self._models is not None else None
        return able, {
            "site": self.site,
            "service": self.service,
            "agent": self.agent_id,
            **self.epochs(status),
            "model": None
            if held is None
            else {"name": held.version.name, "digest": held.version.digest, "snapshot": held.version.snapshot_id},
            "refused": refusal,
            "heartbeat_troubles": self._sender.troubles,
        }

    def epochs(self, status: LeaseStatus | None = None) -> dict[str, Any]:
        """The newest epoch this site read of the service's group."""
        status = status or self._status()
        return {
            "site": self.site,
            "group": status.group,
            "role": status.role,
            "epoch": status.epoch,
            "fenced": status.fenced,
            "may_write": status.may_write,
        }

    def refusal(self, status: LeaseStatus | None = None) -> str | None:
        """Why this site may not answer for the service, ``None`` when it may."""
        status = status or self._status()
        if not status.may_write:
            return status.detail
        if self._models is None:
            return "no service of its groups has an endpoint here"
        if self._models.for_epoch(status.epoch) is None:
            return f"no model for epoch {status.epoch}: {self._model_trouble}"
        return None

    def servable(self) -> Loaded | None:
        """The model that may answer right now, ``None`` when this site may not answer."""
        status = self._status()
        return self._models.for_epoch(status.epoch) if self._models is not None and status.may_write else None

    def nudge(self) -> None:
        """Read the authority and select the model now instead of at the next turn."""
        self._nudged = True
        for event in self._nudges:
            event.set()

    # -- the loops ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start every loop; returns at once.

        What loads models is imported before the first lease is taken: an import can starve the other threads for longer
        than a short T_fence.
        """
        threading.Thread(target=self._start_loops, daemon=True, name="start").start()

    def _start_loops(self) -> None:
        if self._models is not None:
            with suppress(ImportError):
                import_xgboost()
        for event, (name, lease) in zip(self._nudges, self._leases.items(), strict=False):
            poll = min(_LONGEST_POLL_SECONDS, self._groups[name].fencing.fence_seconds / 6)
            self._loop(f"lease-{name}", poll, event, partial(self._renew, lease))
        if self._models is not None:
            self._loop("model", _MODEL_WAIT_SECONDS, self._nudges[-1], self._refresh_model)
        self._loop("lookout", self._detection.interval_seconds, None, self._look)
        self._loop("heartbeat", self._detection.interval_seconds, None, self._beat)

    def renew(self) -> None:
        """One turn of the leases and the model: what their loops do all the time."""
        for lease in self._leases.values():
            self._renew(lease)
        if self._models is not None:
            self._refresh_model()

    def stop(self) -> None:
        """Stop every loop; what hangs in a store is left behind."""
        self._stop.set()
        self.nudge()
        self._sender.close()

    def _loop(
        self, name: str, interval_seconds: float, nudge: threading.Event | None, turn: Callable[[], object]
    ) -> None:
        def run() -> None:
            wake = nudge or self._stop
            while not self._stop.is_set():
                began = self._clock.monotonic()
                if nudge is not None:
                    nudge.clear()
                try:
                    turn()
                except Exception:  # a loop that dies silently is a site that fences itself for no reason
                    log.exception("%s: %s failed", self.site, name)
                wake.wait(max(0.01, interval_seconds - (self._clock.monotonic() - began)))

        threading.Thread(target=run, daemon=True, name=name).start()

    def _renew(self, lease: Lease) -> None:
        before = lease.status()
        after = lease.renew()
        if (before.role, before.epoch, before.may_write) != (after.role, after.epoch, after.may_write):
            log.warning("%s: group %s: %s", self.site, lease.group, after.detail)
            self._nudged = True
            self._nudges[-1].set()

    def _refresh_model(self) -> None:
        """Select the model: now and then, and at every turn while this site should answer and has none."""
        assert self._models is not None
        status, now = self._status(), self._clock.monotonic()
        epoch = status.epoch
        waiting = status.may_write and self._models.for_epoch(epoch) is None
        if epoch is None or not (waiting or self._nudged or now >= self._model_due):
            return
        self._nudged, self._model_due = False, now + _MODEL_INTERVAL_SECONDS
        before = self._models.for_epoch(epoch)
        try:
            held = self._models.refresh(epoch)
        except HoldfastError as error:
            self._model_trouble = str(error)
            return
        self._model_trouble = "none is published here"
        if held is not None and (before is None or before.version != held.version):
            log.warning(
                "%s: model %s, snapshot %s, epoch %d", self.site, held.version.digest, held.version.snapshot_id, epoch
            )

    def _look(self) -> None:
        self._observations = tuple(self._lookout.look())

    def _beat(self) -> None:
        self._sequence += 1
        groups = {}
        for name, lease in self._leases.items():
            status = lease.status()
            groups[name] = GroupBeat(status.role, status.epoch, status.may_write, status.fenced)
        others = tuple(seen for seen in self._observations if seen.site != self.site)
        self._sender.send(Heartbeat(self.site, self.agent_id, self._sequence, self._clock.now(), groups, others))

    # -- the parts ---------------------------------------------------------------------------------------------------

    def _status(self) -> LeaseStatus:
        return self._leases[self._service_group].status()

    def _open_stores(self, sites: tuple[str, ...]) -> dict[str, ObjectStore]:
        # Looks have a tighter limit of their own; a slow answer still renews a lease and carries a heartbeat.
        fences = [group.fencing.fence_seconds for group in self._groups.values()]
        seconds = max(self._detection.timeout_seconds, min([*fences, self._detection.heartbeat_stale_seconds]) / 2)
        timeouts = Timeouts(connect_seconds=seconds, request_seconds=seconds)
        topology, connections = self._runtime.topology, self._runtime.connections
        settings = {name: topology.site(name) for name in sites}
        return {
            name: open_store(name, site, connections.get(site.connection), timeouts=timeouts)
            for name, site in settings.items()
        }

    def _register(self, group: str) -> EpochStore:
        settings = self._groups[group]
        # A read that takes longer than T_fence is worth nothing when it comes.
        return RankedRegister(
            {name: self._stores[name] for name in settings.sites.all()},
            holder=self._runtime.holder,
            clock=self._clock,
            budget_seconds=settings.fencing.fence_seconds,
        )

    def _lease(self, name: str, group: Group, epochs: EpochStore) -> Lease:
        return Lease(
            name,
            self.site,
            epochs,
            fence_seconds=group.fencing.fence_seconds,
            clock=self._clock,
            standby_role="witness" if self.site in group.sites.witness else "standby",
        )

    def _choose_service(self, wanted: str | None) -> tuple[str | None, str]:
        topology = self._runtime.topology
        here = {
            s: name
            for name, g in self._groups.items()
            for s in g.services
            if self.site in topology.service(s).endpoints
        }
        if wanted is not None:
            topology.service(wanted)
            if wanted not in here:
                raise ConfigError(
                    "the service has no endpoint at this site",
                    where=f"service {wanted}",
                    expected=f"`endpoints.{self.site}`, in a group of this site",
                    found="none",
                )
            return wanted, here[wanted]
        if len(here) > 1:
            raise ConfigError(
                "it is not clear which service this agent answers for",
                where=f"site {self.site}",
                expected="--service, and one agent per service",
                found=", ".join(sorted(here)),
            )
        return next(iter(here.items()), (None, next(iter(self._groups))))


def _strictest(detections: list[Detection]) -> Detection:
    """One rhythm for a site in several groups: the fastest of each."""
    first = min(detections, key=lambda d: d.interval_seconds)
    return first.model_copy(
        update={
            "timeout_seconds": min(d.timeout_seconds for d in detections),
            "heartbeat_stale_seconds": min(d.heartbeat_stale_seconds for d in detections),
        }
    )
