"""Bring files of decisions to several sites at once, within a time, whatever each of them does."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from holdfast.engine.policy.spool import Segment

#: Writes an object create-only; that exactly these bytes lie there already is no error. Raises HoldfastError.
Put = Callable[[str, str, bytes], None]
#: How long the other sites are waited for when each segment lies at enough.
GRACE_SECONDS = 0.5


@dataclass
class Shipment:
    """What a shipment did.

    Args:
        shipped: objects that lie at enough sites now.
        left: objects that still wait on this machine.
        errors: per site why it has not got everything.
    """

    shipped: int = 0
    left: int = 0
    errors: dict[str, str] = field(default_factory=dict)


def send(
    segments: Sequence[Segment],
    wanted: Mapping[Path, Sequence[str]],
    put: Put,
    deadline: float,
    done: Shipment,
) -> None:
    """Send each segment to its sites; what has arrived is marked beside it.

    Ends when every site has answered; also a moment after each segment lies at enough of them, for whoever recovers
    from a site's loss does not wait for that site.

    Args:
        wanted: per segment's path its sites.
        deadline: by `time.monotonic`; a put that is slower goes on by itself, within its own timeouts.
        done: is told what went wrong.
    """
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    waiting: set[str] = set()
    for site in dict.fromkeys(site for sites in wanted.values() for site in sites):
        mine = [one for one in segments if site in wanted[one.path]]
        work = partial(_send_to, site, mine, put, deadline, done, ended)
        try:
            threading.Thread(target=work, name=f"decisions-{site}", daemon=True).start()
            waiting.add(site)
        except RuntimeError:  # the interpreter is ending, and starts no threads any more
            work()
            ended.get()
    until = deadline
    while waiting:
        if all(one.is_safe(wanted[one.path]) for one in segments):
            until = min(until, time.monotonic() + GRACE_SECONDS)
        try:
            waiting.discard(ended.get(timeout=max(0.0, until - time.monotonic())))
        except queue.Empty:
            break
    if not all(one.is_safe(wanted[one.path]) for one in segments):
        done.errors |= dict.fromkeys(waiting, "no answer in time")


def _send_to(
    site: str, segments: Sequence[Segment], put: Put, deadline: float, done: Shipment, ended: queue.SimpleQueue[str]
) -> None:
    try:
        for one in segments:
            if one.mark(site).exists():
                continue
            if time.monotonic() > deadline:
                done.errors[site] = "no time was left"
                return
            put(site, one.key, one.data)
            if one.path.exists():  # else it lies at enough sites, and was forgotten meanwhile
                one.mark(site).touch()
    except Exception as error:
        done.errors[site] = str(error)
    finally:
        ended.put(site)
