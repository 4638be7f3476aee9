"""When an export may be sealed, and what window it may have: what `verify` would refuse is not sealed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from datetime import datetime

from holdfast.clock import Clock
from holdfast.engine.audit.errors import ClockBehind
from holdfast.engine.audit.ledger import SealRecord
from holdfast.engine.audit.manifest import CLOCKS_DIFFER, Manifest
from holdfast.errors import ConfigError


def window_ends(newest: Manifest | None, sources: Container[str]) -> dict[str, datetime]:
    """Where the window of each of these sources ended that the newest seal has."""
    held = newest.sources if newest else ()
    return {one.name: one.window.end for one in held if one.window and one.name in sources}


def require_window(since: datetime | None, until: datetime | None, ends: Mapping[str, datetime], now: datetime) -> None:
    """Refuse a window that was mistyped: what is sealed with it stays so for good.

    Args:
        ends: per source where its last window ended.

    Raises:
        ConfigError: it ends after now or before a source's last one, or begins after its end.
    """
    if until is not None and until - now > CLOCKS_DIFFER:
        raise _refused("the window ends in the future", "until", f"{now.isoformat()} (now) or earlier", until)
    if since is not None and since >= (until or now):
        end = f"{until.isoformat()} (until)" if until else f"{now.isoformat()} (now)"
        raise _refused("the window begins after its end", "since", f"before {end}", since)
    for source, reached in ends.items():
        if until is not None and until < reached:
            expected = f"{reached.isoformat()} or later, where the last window of {source} ended"
            raise _refused("the window ends before what is sealed already", "until", expected, until)


def sealing_moment(clock: Clock, previous: SealRecord | None, ends: Iterable[datetime] = ()) -> datetime:
    """Now. Raises ClockBehind: a seal of this moment would come before the newest seal, or before its window's end."""
    now = clock.now()
    if previous is not None and now < previous.sealed_at:
        raise _behind(now, f"{previous.sealed_at.isoformat()} or later, when seal {previous.seal} was made")
    latest = max(ends, default=now)
    if latest - now > CLOCKS_DIFFER:
        raise _behind(now, f"{latest.isoformat()} or later, where a window ends")
    return now


def _behind(now: datetime, expected: str) -> ClockBehind:
    return ClockBehind(
        "this machine's clock is behind the ledger; nothing was sealed",
        where="the clock",
        expected=expected,
        found=now.isoformat(),
        fix="Set the clock right; where the ledger itself is from the future, begin another: a new audit.origin and "
        "audit.prefix",
    )


def _refused(what: str, where: str, expected: str, found: datetime) -> ConfigError:
    return ConfigError(f"{what}; nothing was sealed", where=where, expected=expected, found=found.isoformat())
