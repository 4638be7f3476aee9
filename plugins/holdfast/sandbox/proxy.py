"""The fault proxy of one site: every way in and every way out leads through it, and all obey the site's modes.

One process per site. Its listeners are ``store``, ``service`` and perhaps ``dns`` and ``trail`` (ways in) and
``egress:…`` (ways out). Processes inside the site reach their own store directly, not through here: inside a site that
is cut off the network works. Modes are switched live over HTTP on the control port and survive a restart of the proxy.
What comes in to a cloud is recorded for its trail.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from pathlib import Path
from typing import Any

from holdfast.errors import HoldfastError
from holdfast.sandbox.errors import BadFault
from holdfast.sandbox.faults import UP, Mode, check_direction, matches, parse_mode
from holdfast.sandbox.files import read_json, write_json
from holdfast.sandbox.proxy_control import serve_control
from holdfast.sandbox.proxy_listener import Listener
from holdfast.sandbox.trails.recording import Recorder

#: A way out needs no record: it leads to another site's way in.
RECORDED = ("store", "dns", "trail")


class SiteProxy:
    """All listeners of a site and the modes they are in.

    Args:
        recorded: the folder for records of the ways in that lead to a cloud; none: nothing is recorded.
    """

    def __init__(
        self, site: str, listeners: dict[str, dict[str, int]], mode_file: Path, recorded: Path | None = None
    ) -> None:
        self.site = site
        self._mode_file = mode_file
        self._listeners = {
            name: Listener(
                name,
                at["port"],
                at["upstream"],
                Recorder(recorded, name) if recorded is not None and name in RECORDED else None,
            )
            for name, at in listeners.items()
        }

    async def open(self) -> None:
        """Bind every port and take up the modes of before a restart."""
        saved = read_json(self._mode_file) or {}
        for name, listener in self._listeners.items():
            await listener.open(_saved_mode(saved.get(name)))

    async def set_mode(self, request: dict[str, Any]) -> dict[str, Any]:
        """Switch the listeners that ``direction`` and ``listener`` name.

        Raises:
            BadFault: the request makes no sense; nothing was switched.
        """
        parameters = {k: v for k, v in request.items() if k not in ("mode", "direction", "listener", "drop")}
        mode = parse_mode(str(request.get("mode")), parameters)
        direction, pattern = request.get("direction") or "both", request.get("listener")
        check_direction(direction)
        hit = [one for name, one in self._listeners.items() if matches(name, direction=direction, pattern=pattern)]
        if not hit:
            raise BadFault(
                "no such listener",
                where=f"listener of {self.site}",
                found=repr(pattern),
                expected=f"{direction}: one of {', '.join(self._listeners)}",
            )
        for listener in hit:
            await listener.set_mode(mode)
            if request.get("drop"):
                listener.drop_connections()
        write_json(self._mode_file, {name: one.mode.as_dict() for name, one in self._listeners.items()})
        return self.as_dict()

    def as_dict(self) -> dict[str, Any]:
        return {"site": self.site, "listeners": {name: one.as_dict() for name, one in self._listeners.items()}}


def _saved_mode(saved: dict[str, Any] | None) -> Mode:
    if saved is None:
        return UP
    try:
        return parse_mode(saved["mode"], {k: v for k, v in saved.items() if k != "mode"})
    except (HoldfastError, KeyError):
        return UP


def _folder(config: dict[str, Any]) -> Path | None:
    return Path(config["recorded"]) if config.get("recorded") else None


async def serve(config: dict[str, Any]) -> None:
    """Run a site's proxy until it is told to stop."""
    proxy = SiteProxy(config["site"], config["listeners"], Path(config["mode_file"]), _folder(config))
    await proxy.open()
    control = await serve_control(proxy, config["control"])
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    async with control:
        await stop.wait()


def main() -> None:
    config = read_json(Path(sys.argv[1]))
    if not isinstance(config, dict):
        sys.exit(f"{sys.argv[1]}: expected the proxy's settings as JSON")
    gc.freeze()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(config))


if __name__ == "__main__":
    main()
