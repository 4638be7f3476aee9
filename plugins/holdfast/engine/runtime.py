"""The composition root: from a topology and connections to stores, authority, traffic records and backends.

The command line, the operators, the site agent and a training process all begin here; nothing below knows it.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from holdfast.clock import Clock, SystemClock
from holdfast.engine.config import Connection, ConnectionSource, EnvironmentConnections, Site, Topology, load_topology
from holdfast.errors import ConfigError, HoldfastError

if TYPE_CHECKING:
    from holdfast.engine.authority.interface import EpochStore
    from holdfast.engine.compute.interface import TrainingBackend
    from holdfast.engine.objectstore.access import StoreAccess
    from holdfast.engine.objectstore.interface import ObjectStore
    from holdfast.engine.objectstore.limited import SiteLimiter
    from holdfast.engine.objectstore.timeouts import Timeouts
    from holdfast.engine.policy import DecisionLog
    from holdfast.engine.traffic.interface import TrafficRecord

#: Budget of one look at or change of a traffic record; a caller that has more time tries again.
TRAFFIC_SECONDS = 4.0
#: Turns a site into what opens its store; Airflow's goes through the providers' hooks.
AccessSource = Callable[[str, Site], "StoreAccess | Connection"]


def _decision_timeouts() -> Timeouts:
    from holdfast.engine.objectstore.timeouts import Timeouts

    return Timeouts(connect_seconds=1.0, request_seconds=3.0)


class Runtime:
    """Builds each engine object once, when it is first asked for. Raises ConfigError: a residency policy is wrong.

    Args:
        topology: the validated topology.
        connections: where connection ids are looked up.
        access: how a site's store is opened; by default with its connection.
        clock: wall and monotonic time.
        holder: who acts, in registers and journals: ``host/process/nonce``.
        environ: the environment training jobs and paths are resolved in.
        compute_client: makes the SDK client of a site's compute service; by default its leaf does, from the connection.
    """

    def __init__(
        self,
        topology: Topology,
        connections: ConnectionSource,
        *,
        access: AccessSource | None = None,
        clock: Clock | None = None,
        holder: str | None = None,
        environ: Mapping[str, str] | None = None,
        compute_client: Callable[[str, Site], Any] | None = None,
    ) -> None:
        self._compute_client = compute_client
        self.topology = topology
        self.connections = connections
        self.clock = clock or SystemClock()
        self.holder = holder or f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self.environ = environ if environ is not None else os.environ
        self._access = access or (lambda _name, site: connections.get(site.connection))
        self._backends: dict[str, tuple[ObjectStore, SiteLimiter]] = {}
        self._stores: dict[tuple[str, str], ObjectStore] = {}
        self._authorities: dict[str, EpochStore] = {}
        self._records: dict[str, TrafficRecord] = {}
        self._lock = Lock()
        #: Where what residency policies decide is written down; ``None``: the topology has no such class.
        self.decisions = self._decision_log() if topology.residency else None

    def _decision_log(self) -> DecisionLog:
        from holdfast.engine.policy import DecisionLog, check_policies

        check_policies(self.topology)
        folder = self.decisions_folder
        self.topology._decisions = log = DecisionLog(folder, self.topology, self._put_decisions, self.clock)
        return log

    @property
    def decisions_folder(self) -> Path | None:
        """Where decisions lie on this machine; ``None``: no folder is named, and a container's user has no home."""
        try:
            return self.state_folder / "decisions"
        except ConfigError:
            return None

    def _put_decisions(self, site: str, key: str, data: bytes) -> None:
        from holdfast.engine.objectstore import open_store
        from holdfast.engine.objectstore.errors import ObjectExists
        from holdfast.engine.objectstore.interface import CREATE

        settings = self.topology.site(site)
        # Apart from `store`: few seconds, no retries. What does not arrive now is shipped the next time.
        store = open_store(site, settings, self._access(site, settings), timeouts=_decision_timeouts(), retry=None)
        try:
            store.put(key, data, mode=CREATE)
        except ObjectExists:
            if store.get(key) != data:
                raise HoldfastError(
                    "other decisions lie under this key", where=f"{store.name}: {key}", expected="this writer's lines"
                ) from None

    @classmethod
    def from_environment(
        cls, topology_path: Path | str | None = None, environ: Mapping[str, str] = os.environ
    ) -> Runtime:
        """The runtime of a process outside Airflow. Raises ConfigError when the topology is not valid."""
        return cls(load_topology(topology_path, environ), EnvironmentConnections(environ), environ=environ)

    @cached_property
    def state_folder(self) -> Path:
        """Where this machine keeps what must outlive a process: ``$HOLDFAST_STATE``, else ``~/.holdfast``.

        Raises:
            ConfigError: neither is there.
        """
        named = self.environ.get("HOLDFAST_STATE") or "~/.holdfast"
        try:
            return Path(named).expanduser()
        except RuntimeError as error:
            raise ConfigError(
                "there is no folder for what must outlive a process",
                where=named,
                expected="$HOLDFAST_STATE, or a user with a home",
                found=str(error),
                fix="Name a folder with HOLDFAST_STATE",
            ) from None

    def access(self, site: str) -> StoreAccess | Connection:
        """How a site's cloud is reached. Raises UnknownName, ConfigError."""
        return self._access(site, self.topology.site(site))

    def store(self, site: str, *, flow: str = "") -> ObjectStore:
        """The object store of a site, under its limits. Raises UnknownName, ConfigError.

        Args:
            site: its name.
            flow: whose requests these are, e.g. a protection group: flows share the site's limits fairly.
        """
        from holdfast.engine.objectstore import DEFAULT_RETRY, RetryingStore, open_store
        from holdfast.engine.objectstore.limited import SiteLimiter, limited

        settings = self.topology.site(site)
        with self._lock:
            if site not in self._backends:
                backend = open_store(site, settings, self._access(site, settings), retry=None)
                self._backends[site] = backend, SiteLimiter(settings.limits, clock=self.clock)
            if (site, flow) not in self._stores:
                backend, limiter = self._backends[site]
                # Inside the retries: each attempt counts, and a pause between two holds no place.
                retrying = RetryingStore(limited(backend, limiter, flow=flow), DEFAULT_RETRY)
                self._stores[site, flow] = self._encrypting(site, retrying)
            return self._stores[site, flow]

    def bucket(self, site: str, bucket: str, prefix: str = "") -> ObjectStore:
        """A bucket beside a site's own, reached with the site's connection: a cloud's audit events or bills lie in it.

        It is only ever read.

        Args:
            site: its name.
            bucket: of a local site an absolute folder.
            prefix: keys are relative to it.

        Raises:
            UnknownName, ConfigError: as `store`.
        """
        from holdfast.engine.objectstore import DEFAULT_RETRY, RetryingStore, open_store

        settings = self.topology.site(site).model_copy(update={"bucket": bucket, "prefix": prefix.strip("/")})
        return RetryingStore(open_store(site, settings, self.access(site), retry=None), DEFAULT_RETRY)

    def _encrypting(self, site: str, store: ObjectStore) -> ObjectStore:
        """The store, with the datasets that lie encrypted at this site; the same when there is none."""
        datasets = sorted(self.topology.datasets.items())
        encrypted = [one for one in datasets if self.topology.lies_encrypted(one[0], site)]
        if not encrypted:
            return store
        from holdfast.engine.objectstore.encrypted import EncryptedStore, Scope
        from holdfast.engine.objectstore.envelope import key_ring

        return EncryptedStore(
            store,
            [
                Scope(f"data/{settings.path}/", name, partial(key_ring, str(settings.sync.encrypt), self.environ))
                for name, settings in encrypted
            ],
        )

    def stores(self, sites: Iterable[str], *, flow: str = "") -> dict[str, ObjectStore]:
        """The object stores of several sites, by name; see `store`."""
        return {site: self.store(site, flow=flow) for site in sites}

    def authority(self, group: str) -> EpochStore:
        """The register that says which site of this group is active."""
        from holdfast.engine.authority.register import RankedRegister

        acceptors = self.stores(self.topology.group(group).sites.all())
        with self._lock:
            if group not in self._authorities:
                self._authorities[group] = RankedRegister(acceptors, holder=self.holder, clock=self.clock)
            return self._authorities[group]

    def traffic(self, service: str) -> TrafficRecord:
        """The traffic record of a service at its provider."""
        from holdfast.engine.traffic import open_record

        settings = self.topology.service(service)
        with self._lock:
            if service not in self._records:
                connection = self.connections.get(settings.record.connection)
                self._records[service] = open_record(
                    settings, connection, timeout_seconds=TRAFFIC_SECONDS, clock=self.clock
                )
            return self._records[service]

    def backend(self, site: str) -> TrainingBackend:
        """Where training jobs of a site run."""
        from holdfast.engine.compute import open_backend

        settings = self.topology.site(site)
        client = self._compute_client
        return open_backend(
            site,
            settings,
            topology=self.topology,
            environ=self.environ,
            clock=self.clock,
            store=partial(self.store, site),
            connection=partial(self.connections.get, settings.compute.connection or settings.connection),
            client=partial(client, site, settings) if client is not None else None,
            holder=self.holder,
        )
