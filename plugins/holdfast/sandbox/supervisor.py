"""The sandbox as one thing: up, down, status, faults, and what a process at a vantage point needs to use it."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from holdfast.errors import ConfigError, HoldfastError
from holdfast.sandbox import keeper as keeping
from holdfast.sandbox import processes
from holdfast.sandbox.control import proxy_modes, set_proxy_mode
from holdfast.sandbox.environment import OUTSIDE, build_environment, write_environments
from holdfast.sandbox.errors import BadFault, PartFailed, PortTaken, SandboxError, SandboxNotUp
from holdfast.sandbox.faults import PROCESS_MODES, check_direction, parse_mode
from holdfast.sandbox.files import read_json, write_json
from holdfast.sandbox.layout import Paths, World, default_state, find_topology, read_world
from holdfast.sandbox.parts import (
    AGENT_MODULE,
    PART_VARIABLE,
    Part,
    base_environment,
    build_parts,
    installed,
    mark,
    port_names,
    proxy_settings,
)
from holdfast.sandbox.ports import HOST, assign, claim, claim_block, free_port, is_free
from holdfast.sandbox.processes import Identity
from holdfast.sandbox.status import PartStatus, SandboxStatus, SiteStatus, is_frozen
from holdfast.sandbox.trails.names import trails_folder
from holdfast.sandbox.vault_keys import write_vault_keys

if TYPE_CHECKING:
    from holdfast.sandbox.trails.delivery import Delivered

_FORMAT = 1
_POLL_SECONDS = 0.02
_HOPELESS_DEATHS = 3
_FREEZE_SECONDS = 2.0


class Sandbox:
    """Three emulated clouds on loopback behind fault proxies.

    Args:
        state_dir: everything it writes lies here; by default ``$HOLDFAST_STATE``, else ``~/.holdfast``.
        topology: the topology whose sites it emulates; by default ``$HOLDFAST_TOPOLOGY``, else the one it was brought
            up with before, else ``include/holdfast.yaml``.
        owner_pid: a process without which the sandbox is of no use: when it ends, everything stops.
    """

    def __init__(
        self, state_dir: Path | str | None = None, *, topology: Path | str | None = None, owner_pid: int | None = None
    ) -> None:
        self.paths = Paths(default_state() if state_dir is None else Path(state_dir).expanduser().resolve())
        self._topology = topology
        self._owner = processes.identify(owner_pid) if owner_pid is not None else None

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # -- up and down -------------------------------------------------------------------------------------------------

    def up(self, timeout: float = 120.0, *, agents: bool | None = None) -> SandboxStatus:
        """Start what is missing and wait until every part serves. Faults that are set stay set.

        Args:
            timeout: seconds to wait.
            agents: also run each site's service; ``None``: as before, at first if it is installed.

        Raises:
            ConfigError: the topology cannot be read or asks for what the sandbox does not have.
            MissingTool: an emulator is not installed.
            PortTaken: a port this sandbox keeps is held by another process.
            PartFailed: a part did not come up in time.
        """
        deadline = time.monotonic() + timeout
        with self._locked():
            saved = self._saved()
            world = read_world(find_topology(self._topology, saved=(saved or {}).get("topology")))
            ports, held = self._ports(world, (saved or {}).get("ports"))
            try:
                run_agents = self._agents(agents, saved)
                document = {"format": _FORMAT, "topology": str(world.topology), "ports": ports, "agents": run_agents}
                write_vault_keys(self.paths.state)
                environments = write_environments(world, self.paths, ports)
                parts = build_parts(world, self.paths, ports, agents=run_agents, environments=environments)
                write_json(self.paths.sandbox, document, durable=True)
                self._write_proxies(world, ports)
                self._write_parts(self._keep_destroyed(parts))
                self._ensure_keeper(held)
            finally:
                if held is not None:
                    held.close()
        self._wait(lambda part, run: run.ready or part.destroyed, deadline)
        return self.status()

    def down(self, *, wipe: bool = False) -> None:
        """Stop every part. What durable parts hold stays for the next `up`; ``wipe`` removes data, faults and ports.

        A sandbox that is not up is left as it is.
        """
        if not self.paths.root.is_dir():
            return
        with self._locked():
            keeper = self._keeper()
            if keeper is not None:
                # The keeper first, or it starts again what is stopped.
                processes.stop([keeper])
            processes.stop(self._running())
            shutil.rmtree(self.paths.run, ignore_errors=True)
            self.paths.keeper.unlink(missing_ok=True)
            self.paths.parts.unlink(missing_ok=True)
            if wipe:
                self._forget_ledger()
                for path in (self.paths.data, self.paths.proxies, self.paths.env, trails_folder(self.paths.state)):
                    shutil.rmtree(path, ignore_errors=True)
                self.paths.sandbox.unlink(missing_ok=True)

    def _forget_ledger(self) -> None:
        """An export to the clouds that come next must not miss the seals of those that are gone."""
        from holdfast.engine.audit.remembered import forget_ledger

        with contextlib.suppress(HoldfastError):  # where the topology is gone, what is remembered stays
            saved = self._saved()
            origin = read_world(Path(saved["topology"])).ledger if saved else None
            if origin:
                forget_ledger(self.paths.state, origin)

    # -- looking -----------------------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether it was brought up and its keeper runs."""
        return self._keeper() is not None and self.paths.parts.exists()

    def status(self) -> SandboxStatus:
        """Every part and site as it is now. Asks each part, and waits up to 1 s for each that does not answer."""
        saved = self._saved()
        parts = self._read_parts()
        if saved is None or not parts:
            return SandboxStatus(str(self.paths.state), None, up=False, keeper_pid=None, parts=(), sites=())
        runs = keeping.read_runs(self.paths)
        keeper = self._keeper()
        shown = [PartStatus.of(part, runs.get(part.name)) for part in parts]
        world = read_world(Path(saved["topology"]))
        sites = tuple(
            SiteStatus(site.name, site.cloud, self._modes(site.name, saved["ports"], shown)) for site in world.sites
        )
        healthy = keeper is not None and all(one.healthy or one.state == "destroyed" for one in shown)
        return SandboxStatus(
            str(self.paths.state),
            saved["topology"],
            up=healthy,
            keeper_pid=None if keeper is None else keeper.pid,
            parts=tuple(shown),
            sites=sites,
        )

    def environment(self, vantage: str = OUTSIDE) -> dict[str, str]:
        """Variables for a process outside the sites, or inside the one named.

        Raises:
            UnknownName: there is no such site.
            SandboxNotUp: it was never brought up, so it has no ports.
        """
        saved = self._require_saved()
        return build_environment(read_world(Path(saved["topology"])), self.paths, saved["ports"], vantage)

    # -- trails ------------------------------------------------------------------------------------------------------

    def deliver_trails(self) -> list[Delivered]:
        """Deliver what the fault proxies recorded until now, and close each period that is open.

        Raises:
            SandboxNotUp: the sandbox is down.
        """
        from holdfast.sandbox.trails.delivery import deliverer_of

        return deliverer_of(self.paths, self._require_up()).deliver()

    # -- faults ------------------------------------------------------------------------------------------------------

    def fault(
        self,
        site: str,
        mode: str,
        *,
        direction: str = "both",
        listener: str | None = None,
        drop: bool = False,
        **parameters: float,
    ) -> None:
        """Put a site under a fault, live; it stays until cleared.

        Args:
            mode: one of ``down, blackhole, latency, throttle, http503, corrupt, truncate, half-open`` (its network),
                ``frozen`` (its processes stand still) or ``destroyed`` (its store is killed and its data wiped).
            direction: ``both``, ``ingress`` (ways in) or ``egress`` (ways out); network modes only.
            listener: hit only this listener, ``*`` for any text: ``store``, ``service``, ``egress:*:store``; for
                ``frozen``: ``store`` or ``service``.
            drop: also reset the connections that are open.
            parameters: ``milliseconds`` for latency, ``bytes_per_second`` for throttle.

        Raises:
            UnknownName: no such site.
            BadFault: no such mode, direction, listener or parameter.
            SandboxNotUp: the sandbox is down.
            PartFailed: the part did not obey.
        """
        saved = self._require_up()
        read_world(Path(saved["topology"])).site(site)
        if mode in PROCESS_MODES:
            if parameters or direction != "both":
                raise BadFault(f"the fault {mode} is about processes", where=mode, expected="no direction, no amount")
            self._freeze(site, listener) if mode == "frozen" else self._destroy(site, listener)
            return
        parse_mode(mode, parameters)
        check_direction(direction)
        request = {"mode": mode, "direction": direction, "listener": listener, "drop": drop, **parameters}
        set_proxy_mode(saved["ports"][f"proxy.{site}"], request, site=site)

    def clear(self, site: str | None = None, *, drop: bool = False, timeout: float = 30.0) -> None:
        """Lift every fault of a site, or of all; a destroyed store comes back empty.

        Args:
            drop: also reset open connections, so that nothing sent under the fault arrives late.
        """
        saved = self._require_up()
        world = read_world(Path(saved["topology"]))
        for name in [site] if site is not None else [one.name for one in world.sites]:
            world.site(name)
            for part in self._site_parts(name):
                self._signal(part, signal.SIGCONT)
            request = {"mode": "up", "direction": "both", "listener": None, "drop": drop}
            set_proxy_mode(saved["ports"][f"proxy.{name}"], request, site=name)
        self._restore(site, timeout)

    def freeze(self, site: str, listener: str | None = None) -> None:
        """Stop a site's processes with SIGSTOP: they hold their connections and do nothing."""
        self.fault(site, "frozen", listener=listener)

    def thaw(self, site: str) -> None:
        """Let a site's processes go on with SIGCONT; faults of its network stay."""
        self._require_up()
        for part in self._site_parts(site):
            self._signal(part, signal.SIGCONT)

    # -- inside ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One `up` or `down` at a time per state folder, also between processes."""
        try:
            self.paths.root.mkdir(parents=True, exist_ok=True)
            handle = self.paths.lock.open("a")
        except OSError as error:
            raise ConfigError(
                "the state folder cannot be written",
                where=str(self.paths.state),
                expected="a folder of this user",
                found=error.strerror or str(error),
                fix="Name another with HOLDFAST_STATE",
            ) from None
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _saved(self) -> dict[str, Any] | None:
        saved = read_json(self.paths.sandbox)
        if saved is not None and (not isinstance(saved, dict) or saved.get("format") != _FORMAT):
            raise SandboxError(
                "the sandbox's state was written by another version",
                where=str(self.paths.sandbox),
                expected=f"format {_FORMAT}",
                found=repr(saved)[:60],
                fix="Remove the state folder",
            )
        return saved

    def _require_saved(self) -> dict[str, Any]:
        saved = self._saved()
        if saved is None:
            raise SandboxNotUp(
                "the sandbox was never brought up here", where=str(self.paths.state), fix="Run: holdfast sandbox up"
            )
        return saved

    def _require_up(self) -> dict[str, Any]:
        saved = self._require_saved()
        if not self.is_up:
            raise SandboxNotUp(
                "the sandbox is down",
                where=str(self.paths.state),
                expected="a running keeper",
                found="none",
                fix="Run: holdfast sandbox up",
            )
        return saved

    def _ports(self, world: World, saved: dict[str, int] | None) -> tuple[dict[str, int], socket.socket | None]:
        """The ports by name, and the claim on the block while nobody else holds it."""
        names = port_names(world)
        if not saved:
            block = claim_block(len(names))
            return {"claim": block.first, **assign(names, block)}, block.claim
        ports = dict(saved)
        for name in names:
            if name not in ports:
                ports[name] = free_port()
        return ports, None if self._keeper() is not None else claim(ports["claim"])

    def _agents(self, wanted: bool | None, saved: dict[str, Any] | None) -> bool:
        if wanted and not installed(AGENT_MODULE):
            raise ConfigError("this installation has no service to run", where=AGENT_MODULE, fix="Use --no-agents")
        if wanted is None:
            return bool(saved["agents"]) if saved is not None else installed(AGENT_MODULE)
        return wanted

    def _write_proxies(self, world: World, ports: dict[str, int]) -> None:
        for site in world.sites:
            write_json(self.paths.proxy(site.name), proxy_settings(world, self.paths, ports, site.name))

    def _keep_destroyed(self, parts: list[Part]) -> list[Part]:
        from dataclasses import replace

        gone = {part.name for part in self._read_parts() if part.destroyed}
        return [replace(part, destroyed=part.name in gone) for part in parts]

    def _read_parts(self) -> list[Part]:
        document = read_json(self.paths.parts) or {"parts": []}
        return [Part.from_dict(part) for part in document["parts"]]

    def _write_parts(self, parts: list[Part]) -> None:
        owner = None if self._owner is None else asdict(self._owner)
        document = {"owner": owner, "parts": [part.as_dict() for part in parts]}
        if read_json(self.paths.parts) != document:
            write_json(self.paths.parts, document)

    def _running(self) -> list[Identity]:
        """Every process of the sandbox, also one a keeper started and died before it wrote down."""
        runs = keeping.read_runs(self.paths)
        unknown = [part for part in self._read_parts() if part.name not in runs or not runs[part.name].alive]
        found = [run.identity for run in runs.values()]
        found += [processes.find(p.argv, variable=PART_VARIABLE, value=mark(self.paths, p.name)) for p in unknown]
        return [identity for identity in found if identity is not None]

    def _keeper(self) -> Identity | None:
        document = read_json(self.paths.keeper)
        identity = Identity(**document) if isinstance(document, dict) else None
        return identity if identity is not None and identity.alive else None

    def _ensure_keeper(self, held: socket.socket | None) -> None:
        if self._keeper() is not None:
            return
        # It inherits the claim on the ports and holds it for its life.
        keep = [] if held is None else [held.fileno()]
        _, identity = processes.spawn(
            [sys.executable, "-m", "holdfast.sandbox.keeper", str(self.paths.state)],
            environ=base_environment(),
            log=self.paths.log("keeper"),
            cwd=Path("/"),
            keep=keep,
        )
        write_json(self.paths.keeper, asdict(identity))

    def _wait(self, done: Any, deadline: float, names: set[str] | None = None) -> None:
        """Until every part is as wanted. Raises PartFailed, PortTaken."""
        parts = [part for part in self._read_parts() if names is None or part.name in names]
        while True:
            runs = keeping.read_runs(self.paths)
            waiting = [part for part in parts if part.name not in runs or not done(part, runs[part.name])]
            if not waiting:
                return
            late = time.monotonic() > deadline
            for part in waiting:
                self._raise_if_hopeless(part, runs.get(part.name), late)
            if self._keeper() is None:
                raise PartFailed("the keeper ended", where=str(self.paths.log("keeper")), found=self._tail("keeper"))
            time.sleep(_POLL_SECONDS)

    def _raise_if_hopeless(self, part: Part, run: keeping.Run | None, late: bool) -> None:
        if run is not None and run.state == "port taken" and not is_free(part.port):
            raise PortTaken(
                f"the port of {part.name} is taken",
                where=f"{HOST}:{part.port}",
                expected="a free port",
                found="another process listening there",
                fix="End that process, or `holdfast sandbox down --wipe` to choose new ports",
            )
        if late or (run is not None and run.early_deaths >= _HOPELESS_DEATHS):
            found = "no start" if run is None else f"{run.state}{f': {run.error}' if run.error else ''}"
            raise PartFailed(
                f"{part.name} did not come up",
                where=str(self.paths.log(part.name)),
                expected=f"an answer on {HOST}:{part.port}",
                found=f"{found}\n{self._tail(part.name)}",
            )

    def _tail(self, part: str) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.paths.log(part).read_text(errors="replace").splitlines()[-8:])
        return ""

    def _site_parts(self, site: str, listener: str | None = None) -> list[Part]:
        wanted = {f"store.{site}", f"service.{site}"} if listener is None else {f"{listener}.{site}"}
        return [part for part in self._read_parts() if part.name in wanted]

    def _signal(self, part: Part, number: int) -> bool:
        run = keeping.read_runs(self.paths).get(part.name)
        return run is not None and run.identity is not None and run.identity.signal(number)

    def _freeze(self, site: str, listener: str | None) -> None:
        parts = self._site_parts(site, listener)
        if not parts:
            raise BadFault(
                "nothing to freeze",
                where=f"{listener or 'processes'} of {site}",
                expected="store or service, running",
                found="none",
            )
        for part in parts:
            if not self._signal(part, signal.SIGSTOP):
                raise PartFailed(f"{part.name} does not run", where=site)
        # A stop signal is delivered when the process next runs, which on a busy machine takes a moment.
        deadline = time.monotonic() + _FREEZE_SECONDS
        while time.monotonic() < deadline:
            runs = keeping.read_runs(self.paths)
            if all(part.name in runs and is_frozen(runs[part.name]) for part in parts):
                return
            time.sleep(_POLL_SECONDS)

    def _destroy(self, site: str, listener: str | None) -> None:
        if listener not in (None, "store"):
            raise BadFault("only a store can be destroyed", where="listener", expected="store", found=repr(listener))
        self._set_destroyed({f"store.{site}"}, True)
        self._wait(lambda _part, run: run.state == "destroyed", time.monotonic() + 10.0, {f"store.{site}"})

    def _restore(self, site: str | None, timeout: float) -> None:
        gone = {part.name for part in self._read_parts() if part.destroyed and site in (None, part.site)}
        if gone:
            self._set_destroyed(gone, False)
            self._wait(lambda _part, run: run.ready, time.monotonic() + timeout, gone)

    def _set_destroyed(self, names: set[str], destroyed: bool) -> None:
        from dataclasses import replace

        with self._locked():
            self._write_parts([replace(p, destroyed=destroyed) if p.name in names else p for p in self._read_parts()])

    def _modes(self, site: str, ports: dict[str, int], parts: list[PartStatus]) -> dict[str, Any]:
        modes = proxy_modes(ports[f"proxy.{site}"])
        states = {one.name.partition(".")[0]: one.state for one in parts if one.site == site}
        return {"listeners": modes, "processes": {k: v for k, v in states.items() if v in ("frozen", "destroyed")}}


__all__ = ["OUTSIDE", "Sandbox"]
