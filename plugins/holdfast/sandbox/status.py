"""What `holdfast sandbox status` shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdfast.sandbox.keeper import Run, answers
from holdfast.sandbox.parts import Part
from holdfast.sandbox.ports import HOST

_ASK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One process: where it is, whether it answers, how often it was started again."""

    name: str
    kind: str
    site: str | None
    pid: int | None
    address: str
    state: str
    healthy: bool
    restarts: int
    error: str | None

    @classmethod
    def of(cls, part: Part, run: Run | None) -> PartStatus:
        state, healthy = _look(part, run)
        return cls(
            part.name,
            part.kind,
            part.site,
            run.pid if run is not None and run.alive else None,
            f"{HOST}:{part.port}",
            state,
            healthy,
            run.restarts if run is not None else 0,
            run.error if run is not None else None,
        )


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """One site: the mode of each listener, and what was done to its processes."""

    name: str
    cloud: str
    modes: dict[str, Any]

    @property
    def mode(self) -> str:
        """The one mode of the site, ``mixed`` when its listeners differ."""
        if self.modes["processes"]:
            return "+".join(sorted(set(self.modes["processes"].values())))
        names = {one["mode"] for one in self.modes["listeners"].values()}
        return "unknown" if not names else names.pop() if len(names) == 1 else "mixed"


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """The sandbox: ``up`` when its keeper runs and every part answers."""

    state: str
    topology: str | None
    up: bool
    keeper_pid: int | None
    parts: tuple[PartStatus, ...]
    sites: tuple[SiteStatus, ...]

    def part(self, name: str) -> PartStatus:
        """The part of this name. Raises KeyError."""
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(name)

    def site(self, name: str) -> SiteStatus:
        """The site of this name. Raises KeyError."""
        for site in self.sites:
            if site.name == name:
                return site
        raise KeyError(name)

    def as_dict(self) -> dict[str, Any]:
        document = asdict(self)
        document["sites"] = [{"name": s.name, "cloud": s.cloud, "mode": s.mode, **s.modes} for s in self.sites]
        return document


def _look(part: Part, run: Run | None) -> tuple[str, bool]:
    if run is None:
        return "stopped", False
    if run.state == "destroyed":
        return "destroyed", False
    if not run.alive:
        return run.state if run.state == "port taken" else "dead", False
    if is_frozen(run):
        return "frozen", False
    healthy = run.ready and answers(part, timeout_seconds=_ASK_SECONDS)
    return run.state, healthy


def is_frozen(run: Run) -> bool:
    """Whether the process stands still (SIGSTOP)."""
    try:
        return Path(f"/proc/{run.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False
