"""Delivering what was recorded, each record once, also over a kill at any moment.

Before anything is written it is put down which records go and under which names (the plan), on disk. Whoever comes
next carries a plan that is there out again first: the same records give the same bytes under the same names, and an
append finds what is there already. Only then the records count as delivered.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from holdfast.clock import Clock, SystemClock
from holdfast.errors import HoldfastError
from holdfast.sandbox.files import read_json, write_json
from holdfast.sandbox.layout import Paths, SandboxSite, read_world
from holdfast.sandbox.trails.azure_monitor import AzureMonitor
from holdfast.sandbox.trails.cloud_logging import CloudLogging
from holdfast.sandbox.trails.cloudtrail import CloudTrail
from holdfast.sandbox.trails.emulator import Emulator
from holdfast.sandbox.trails.exchanges import MOST_BYTES, Exchange, read, remove_delivered, waiting
from holdfast.sandbox.trails.names import trails_folder
from holdfast.sandbox.trails.recording import recorded_folder
from holdfast.sandbox.trails.signing import load_or_make_key

_LONGEST_PERIOD = timedelta(hours=1)


class Trail(Protocol):
    """One cloud's form."""

    def plan(self, exchanges: Sequence[Exchange], state: dict[str, Any], now: datetime) -> dict[str, Any]:
        """What must be known before the first byte is written, as JSON."""

    def deliver(
        self, exchanges: Sequence[Exchange], plan: dict[str, Any], state: dict[str, Any]
    ) -> tuple[dict[str, Any], int, int]:
        """Write it, also again; the new state, how many events, how many objects."""


@dataclass
class Delivered:
    """What was delivered of one site's records by one call.

    Args:
        events: of the cloud's form; more than requests where a copy is two of them.
        objects: written or appended to.
        unparsed: streams that were no HTTP.
        torn: lines of the record that a crash or a full disk cut off.
        error: why it did not go on; what is missing stays recorded.
        began: when the trail did, ISO 8601.
        until: what had ended by then is delivered; of AWS the end of the newest digest.
    """

    site: str
    cloud: str
    began: str = ""
    until: str = ""
    events: int = 0
    objects: int = 0
    unparsed: int = 0
    torn: int = 0
    error: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Deliverer:
    """Delivers the records of a sandbox's sites; one process at a time, by a lock in the state folder.

    Args:
        ports: by the name of the site, its store's own port, past the fault proxy.
    """

    def __init__(
        self, state: Path, sites: Sequence[SandboxSite], ports: Mapping[str, int], *, clock: Clock | None = None
    ) -> None:
        self._state = state
        self._sites = sites
        self._ports = ports
        self._clock = clock or SystemClock()

    def deliver(self, *, closing: bool = True) -> list[Delivered]:
        """Deliver everything that was recorded until now, site by site; a site that cannot be written is told of.

        Args:
            closing: also close CloudTrail's period where nothing happened in it; else only after an hour.
        """
        with self._locked():
            return [self._deliver(site, closing) for site in self._sites]

    def _deliver(self, site: SandboxSite, closing: bool) -> Delivered:
        done = Delivered(site.name, site.cloud)
        began = _iso(self._clock.now())
        try:
            while self._step(site, done, closing and not done.objects):
                pass
        except (HoldfastError, OSError) as error:
            done.error = error.as_dict() if isinstance(error, HoldfastError) else {"what": str(error)}
        cloud = self._state_of(site)["cloud"]
        done.began, done.until = cloud["began"], cloud.get("end", began)
        return done

    def _state_of(self, site: SandboxSite) -> dict[str, Any]:
        """How far it came, and the plan that may be under way."""
        began = self._began(recorded_folder(self._state, site.name))
        saved: dict[str, Any] | None = read_json(self._file(site))
        return saved or {"cursor": {}, "cloud": {"began": began}, "plan": None}

    def _file(self, site: SandboxSite) -> Path:
        return trails_folder(self._state) / f"{site.name}.json"

    def _step(self, site: SandboxSite, done: Delivered, closing: bool) -> bool:
        """One plan, an old one or a new one; whether there may be more."""
        file, state = self._file(site), self._state_of(site)
        folder = recorded_folder(self._state, site.name)
        trail = self._trail(site)
        is_new = state["plan"] is None
        if is_new:
            ranges = waiting(folder, state["cursor"])
            if not ranges and not (site.cloud == "aws" and (closing or self._is_due(state["cloud"]))):
                return False
            found = read(folder, ranges)
            now = self._after(state["cloud"])
            state["plan"] = {"ranges": ranges, "cloud": trail.plan(found.exchanges, state["cloud"], now)}
            write_json(file, state, durable=True)
        plan = state["plan"]
        ranges = {name: (start, end) for name, (start, end) in plan["ranges"].items()}
        found = read(folder, ranges)
        state["cloud"], events, objects = trail.deliver(found.exchanges, plan["cloud"], state["cloud"])
        state["cursor"] = {name: end for name, end in state["cursor"].items() if (folder / name).exists()}
        state["cursor"].update({name: end for name, (_, end) in ranges.items()})
        state["plan"] = None
        write_json(file, state, durable=True)
        # Only now: a cursor that came too late would have its records read anew from a file that is gone.
        remove_delivered(folder, state["cursor"])
        done.events, done.objects = done.events + events, done.objects + objects
        done.unparsed, done.torn = done.unparsed + found.unparsed, done.torn + found.torn
        # While one delivers, more is recorded: that is the next delivery's, or this one would never end.
        return not is_new or sum(end - start for start, end in ranges.values()) >= MOST_BYTES // 2

    def _trail(self, site: SandboxSite) -> Trail:
        emulator = Emulator(self._ports[site.name])
        if site.cloud == "aws":
            return CloudTrail(site, emulator, load_or_make_key(self._state, self._clock.now()))
        return CloudLogging(site, emulator) if site.cloud == "gcp" else AzureMonitor(site, emulator)

    def _began(self, folder: Path) -> str:
        """The hour in which the first record's file was opened, else this one: an auditor goes by hours.

        That nothing was delivered in it before is true: there was no sandbox.
        """
        first = min((file.name for file in folder.glob("*.jsonl")), default=None)
        now = self._clock.now()
        if first is not None:
            now = min(now, datetime.fromtimestamp(int(first.partition("-")[0]) // 10**9, tz=UTC))
        return _iso(now.replace(minute=0, second=0))

    def _is_due(self, cloud: dict[str, Any]) -> bool:
        return self._clock.now() - _parsed(cloud.get("end") or cloud["began"]) >= _LONGEST_PERIOD

    def _after(self, cloud: dict[str, Any]) -> datetime:
        """Now, in a later second than the period before ended: a period is a second long at least."""
        earliest = _parsed(cloud.get("end") or cloud["began"]) + timedelta(seconds=1)
        while (now := self._clock.now()) < earliest:
            self._clock.sleep(min(1.0, (earliest - now).total_seconds()))
        return now

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        folder = trails_folder(self._state)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _parsed(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def deliverer_of(paths: Paths, saved: Mapping[str, Any]) -> Deliverer:
    """For the sandbox whose settings these are.

    Args:
        saved: what ``sandbox.json`` holds: topology and ports.
    """
    world = read_world(Path(saved["topology"]))
    ports = {site.name: saved["ports"][f"store.{site.name}"] for site in world.sites}
    return Deliverer(paths.state, world.sites, ports)
