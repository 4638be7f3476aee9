"""The decision log: a decision is on this machine's disk before anything follows from it, and in buckets soon after.

Nothing waits for a bucket. What is not shipped when a process ends, whichever way, the next one on this machine ships.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.config.models import Topology
from holdfast.engine.policy.records import (
    NOTHING_BEFORE,
    DecisionRecord,
    line_hash,
    object_key,
)
from holdfast.engine.policy.shipping import Put, Shipment, send
from holdfast.engine.policy.spool import Destinations, Slot, left_behind, take
from holdfast.errors import HoldfastError

log = logging.getLogger("holdfast.policy")

#: The same question gets the same decision for so long in one process, and is written down once.
REUSE = timedelta(seconds=60)
#: A process that goes on ships what it decided after so long.
SHIP_AFTER_SECONDS = 60.0
#: How long a shipment may take all in all; a put that is slower goes on by itself, within its own timeouts.
SHIP_BUDGET_SECONDS = 8.0


class DecisionNotRecorded(HoldfastError):
    """A decision can be written down nowhere, so nothing may follow from it: nothing was copied."""

    transient = True


class DecisionLog:
    """Writes decisions down. One for each topology in a process; any thread may use it.

    Args:
        root: folder on this machine, ``$HOLDFAST_STATE/decisions``; ``None``: there is none.
        topology: whose sites the decisions are shipped to.
        put: writes an object at a site.
        clock: wall time of the decisions.
    """

    def __init__(self, root: Path | None, topology: Topology, put: Put, clock: Clock) -> None:
        self._root, self._put, self._clock = root, put, clock
        self._destinations: Destinations = {
            name: (str(site.cloud), site.bucket, site.prefix) for name, site in topology.sites.items()
        }
        self._sites_of = {name: group.sites.all() for name, group in topology.groups.items()}
        self._reset()
        _LIVE.add(self)

    def _reset(self) -> None:
        self._lock, self._shipping = threading.RLock(), threading.Lock()
        self._slot: Slot | None = None
        self._made: dict[Any, DecisionRecord] = {}
        self._timer: threading.Timer | None = None
        #: A writer without a disk: its lines go straight to a bucket.
        self._direct = (uuid.uuid4().hex, 0, NOTHING_BEFORE)

    # -- writing down --------------------------------------------------------------------------------------------------

    def record(self, key: Any, make: Callable[[], DecisionRecord]) -> DecisionRecord:
        """Write a decision down, unless this process did within the last minute.

        Args:
            key: the question and the policy's hash.
            make: the decision; number, writer and time are filled in here.

        Raises:
            DecisionNotRecorded: neither this machine's disk nor a bucket takes it.
        """
        with self._lock:
            now = self._clock.now()
            known = self._made.get(key)
            if known is not None and timedelta(0) <= now - known.at < REUSE:
                return known
            draft = make()
            try:
                found = self._append(draft.model_copy(update={"at": now}))
            except OSError as error:
                self._drop_slot()
                found = self._straight(draft.model_copy(update={"at": now}), error)
            if len(self._made) >= 1024:
                self._made.clear()
            self._made[key] = found
            return found

    def _append(self, draft: DecisionRecord) -> DecisionRecord:
        if self._root is None:
            raise OSError("no state folder: neither HOLDFAST_STATE nor a home is known")
        if self._slot is None:
            self._slot = take(self._root, self._destinations)
        slot = self._slot
        found = _numbered(draft, slot.writer, slot.seq + 1, slot.previous)
        slot.append(found)
        if self._timer is None:
            self._timer = threading.Timer(SHIP_AFTER_SECONDS, _ship_of, [weakref.ref(self)])
            self._timer.daemon = True
            self._timer.start()
        return found

    def _drop_slot(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            with suppress(OSError):
                slot.abandon()

    def _straight(self, draft: DecisionRecord, error: OSError) -> DecisionRecord:
        nonce, seq, previous = self._direct
        found = _numbered(draft, f"diskless-{nonce}", seq + 1, previous)
        line = found.to_line()
        reasons = [f"{self._root}: {error}"]
        for site in self._sites_for([found.principal.group]):
            try:
                self._put(site, object_key(found), line + b"\n")
            except HoldfastError as refused:
                reasons.append(f"{site}: {refused}")
                continue
            self._direct = (nonce, found.seq, line_hash(line))
            return found
        raise DecisionNotRecorded(
            "the decision cannot be written down anywhere; nothing was copied",
            where=str(self._root or "decisions"),
            expected="a folder this process may write to, or a site that takes it",
            found="; ".join(reasons),
            fix="Have HOLDFAST_STATE name a folder on a disk with room",
        )

    def _sites_for(self, groups: Iterable[str]) -> list[str]:
        """The sites of these groups; of no group: every site."""
        sites: list[str] = []
        for group in groups:
            sites += self._sites_of.get(group) or self._destinations
        return list(dict.fromkeys(sites))

    # -- shipping ------------------------------------------------------------------------------------------------------

    def ship(self, *, budget_seconds: float = SHIP_BUDGET_SECONDS, everything: bool = False) -> Shipment:
        """Bring what was decided to the buckets, also what processes left that ended. Raises nothing.

        Args:
            budget_seconds: what has not arrived by then stays for the next time.
            everything: look for what others left though this process decided nothing.
        """
        deadline = time.monotonic() + budget_seconds
        done = Shipment()
        if not self._shipping.acquire(timeout=budget_seconds):
            return done
        try:
            with self._lock:
                timer, self._timer, slot = self._timer, None, self._slot
            if timer is not None:
                timer.cancel()
            if slot is not None:
                self._ship_slot(slot, self._destinations, deadline, done)
            if slot is not None or everything:
                self._ship_left(deadline, done)
        finally:
            self._shipping.release()
        for site, error in done.errors.items():
            log.warning("decisions wait on this machine for %s: %s", site, error)
        return done

    def _ship_left(self, deadline: float, done: Shipment) -> None:
        if self._root is None:
            return
        try:
            for other, same in left_behind(self._root, self._destinations):
                try:
                    self._ship_slot(other, same, deadline, done)
                finally:
                    other.close()
        except (OSError, ValueError) as error:
            done.errors[str(self._root)] = str(error)

    def _ship_slot(self, slot: Slot, destinations: Destinations, deadline: float, done: Shipment) -> None:
        try:
            with self._lock:
                segments = list(slot.segments())
            wanted = {
                one.path: [s for s in self._sites_for(sorted(one.groups)) if s in destinations] for one in segments
            }
            send(segments, wanted, self._put, deadline, done)
            with self._lock:
                for one in segments:
                    if one.is_safe(wanted[one.path]):
                        slot.forget(one)
                        done.shipped += 1
                    else:
                        done.left += 1
        except (OSError, ValueError, HoldfastError) as error:
            done.errors[str(slot.folder)] = str(error)

    def close(self, *, budget_seconds: float = SHIP_BUDGET_SECONDS) -> Shipment:
        """Ship, and let go of the writer."""
        done = self.ship(budget_seconds=budget_seconds)
        with self._lock:
            slot, self._slot = self._slot, None
            self._made.clear()
            if slot is not None:
                with suppress(OSError):
                    slot.close()
        return done

    def forked(self) -> None:
        """In a child: it is another writer."""
        slot = self._slot
        self._reset()
        if slot is not None:
            with suppress(OSError):
                slot.abandon()


def _numbered(draft: DecisionRecord, writer: str, seq: int, previous: str) -> DecisionRecord:
    return draft.model_copy(update={"id": f"{writer}-{seq:08}", "writer": writer, "seq": seq, "previous": previous})


_LIVE: weakref.WeakSet[DecisionLog] = weakref.WeakSet()


def _ship_of(reference: weakref.ref[DecisionLog]) -> None:
    found = reference()
    if found is not None:
        found.ship()


def ship_all() -> None:
    """Ship what this process decided, of whatever topology: for one that ends without `atexit`."""
    for one in list(_LIVE):
        one.ship()


@atexit.register
def _at_exit() -> None:
    for one in list(_LIVE):
        one.close(budget_seconds=SHIP_BUDGET_SECONDS / 2)


def _after_fork() -> None:
    for one in list(_LIVE):
        one.forked()


os.register_at_fork(after_in_child=_after_fork)
