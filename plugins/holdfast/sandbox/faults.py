"""The faults a site's proxy can be put under, and which of its listeners they hit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from holdfast.sandbox.errors import BadFault, SandboxNotUp

if TYPE_CHECKING:
    from holdfast.sandbox.supervisor import Sandbox

#: mode → the parameter it needs, with its unit; ``None``: it needs none.
PROXY_MODES: dict[str, str | None] = {
    "up": None,
    "down": None,
    "blackhole": None,
    "latency": "milliseconds",
    "throttle": "bytes_per_second",
    "http503": None,
    "corrupt": None,
    "truncate": None,
    "half-open": None,
}
#: What is done to the processes of a site, not to its network.
PROCESS_MODES = ("frozen", "destroyed")
DIRECTIONS = ("both", "ingress", "egress")


@dataclass(frozen=True, slots=True)
class Mode:
    """How a listener behaves.

    Args:
        name: one of `PROXY_MODES`.
        amount: milliseconds for ``latency``, bytes per second for ``throttle``, else 0.
    """

    name: str = "up"
    amount: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        parameter = PROXY_MODES[self.name]
        return {"mode": self.name} if parameter is None else {"mode": self.name, parameter: self.amount}


UP = Mode()


def parse_mode(name: str, parameters: dict[str, Any]) -> Mode:
    """A mode from its name and parameters.

    Raises:
        BadFault: there is no such mode, or its parameter is missing, unknown or not above 0.
    """
    if name not in PROXY_MODES:
        raise BadFault(
            "no such fault",
            where="mode",
            expected=f"one of {', '.join((*PROXY_MODES, *PROCESS_MODES))}",
            found=repr(name),
        )
    needed = PROXY_MODES[name]
    unknown = sorted(set(parameters) - {needed})
    if unknown:
        raise BadFault(
            f"the fault {name} has no such parameter",
            where=", ".join(unknown),
            expected=needed or "none",
            found=", ".join(unknown),
        )
    if needed is None:
        return Mode(name)
    value = parameters.get(needed)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
        raise BadFault(f"the fault {name} needs {needed}", where=needed, expected="a number above 0", found=repr(value))
    return Mode(name, float(value))


def matches(listener: str, *, direction: str, pattern: str | None) -> bool:
    """Whether a fault of this direction and listener pattern hits the listener.

    Args:
        listener: ``store``, ``service``, ``dns``, ``egress:<site>:store``, ``egress:<site>:service``, ``egress:dns``.
        pattern: a listener's name, with ``*`` for any text; ``None``: every listener of the direction.
    """
    is_egress = listener.startswith("egress:")
    if (direction == "egress") != is_egress and direction != "both":
        return False
    return pattern is None or fnmatchcase(listener, pattern)


def check_direction(direction: str) -> None:
    """Raises BadFault for a direction there is not."""
    if direction not in DIRECTIONS:
        raise BadFault(
            "no such direction", where="direction", expected=f"one of {', '.join(DIRECTIONS)}", found=repr(direction)
        )


class SandboxFaults:
    """A drill's `FaultInjector` for the sandbox: a site's fault proxy, so everything inside the site goes on working.

    Args:
        environ: its ``HOLDFAST_STATE`` names the sandbox.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ

    @property
    def description(self) -> str:
        """What it acts on. Raises SandboxNotUp when the sandbox is down."""
        sandbox = self._sandbox()
        if not sandbox.is_up:
            raise SandboxNotUp(
                "the sandbox is down",
                where=str(sandbox.paths.state),
                expected="a running keeper",
                found="none",
                fix="Run: holdfast sandbox up",
            )
        return f"the fault proxies of the sandbox in {sandbox.paths.state} (emulated clouds)"

    def inject(self, site: str, mode: str, **parameters: float | str) -> None:
        """Put the site under the fault; open connections are reset, as those of a site that is cut off."""
        amounts = {name: float(value) for name, value in parameters.items()}
        self._sandbox().fault(site, mode, direction="both", listener=None, drop=True, **amounts)

    def clear(self, site: str) -> None:
        """Lift every fault of the site."""
        self._sandbox().clear(site)

    def _sandbox(self) -> Sandbox:
        from holdfast.sandbox.layout import default_state
        from holdfast.sandbox.supervisor import Sandbox

        return Sandbox(default_state(self._environ))
