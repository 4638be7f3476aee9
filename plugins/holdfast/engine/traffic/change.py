"""What every provider of traffic records shares: the companion that carries the epoch, and the switch as a protocol.

A record cannot carry an epoch itself, so beside it stands a TXT record with ``epoch=… site=…``. Both change in one
batch that deletes exactly what was read and adds what is wanted. The provider refuses the batch when either is no
longer what was read, so a batch is a compare-and-swap over both. Epochs only grow, so a state never comes back, and a
batch that arrives late (its answer lost, its sender long gone) finds something else and is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from holdfast.clock import Clock, SystemClock
from holdfast.engine.config import Record
from holdfast.engine.traffic.interface import StaleTrafficEpoch, TrafficError, TrafficState, TrafficUnavailable
from holdfast.errors import UnknownName

_COMPANION = re.compile(r'"?epoch=(\d+) site=([a-z0-9-]+)"?')
_LEAST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.05, 0.5


class ChangeConflict(TrafficError):
    """The records are no longer what was read; inside this package only, the switch reads again."""

    transient = True


@dataclass(frozen=True, slots=True)
class RecordSet:
    """All records of one name and type, as a provider holds them."""

    name: str
    type: str
    ttl_seconds: int
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """What was read: the record and its companion, each as it stands or ``None``."""

    record: RecordSet | None
    companion: RecordSet | None

    @property
    def present(self) -> tuple[RecordSet, ...]:
        return tuple(one for one in (self.record, self.companion) if one is not None)


class Zone(Protocol):
    """One zone at one provider: the two calls a switch needs."""

    def read(self, record_name: str, record_type: str, companion_name: str) -> Held:
        """Both records as the provider's API holds them. Raises TrafficUnavailable."""

    def replace(self, deletions: tuple[RecordSet, ...], additions: tuple[RecordSet, ...]) -> None:
        """One atomic change.

        Raises:
            ChangeConflict: a deletion is not exactly what is held, or an addition is held already.
            TrafficUnavailable: no answer; it may have been done or not, or be done later.
        """


class ZoneRecord:
    """The traffic record of one service in a zone.

    Args:
        record: what the topology says of it.
        zone: the provider.
        timeout_seconds: budget of one `read` or `switch`, repeats included.
    """

    def __init__(self, record: Record, zone: Zone, *, timeout_seconds: float, clock: Clock | None = None) -> None:
        self._record = record
        self._zone = zone
        self._timeout_seconds = timeout_seconds
        self._clock: Clock = clock or SystemClock()

    @property
    def companion_name(self) -> str:
        """The name of the TXT record that carries the epoch."""
        return f"_holdfast.{self._record.name}"

    def read(self) -> TrafficState | None:
        """The record as the provider's API holds it; ``None`` when it was never created."""
        return _state(self._read())

    def switch(self, site: str, *, epoch: int) -> TrafficState:
        """Point the record at ``site``; see `TrafficRecord.switch`."""
        wanted = self._wanted(site, epoch)
        deadline = self._clock.monotonic() + self._timeout_seconds
        wait_seconds = _LEAST_WAIT_SECONDS
        problem: TrafficError | None = None
        while True:
            try:
                held = self._read()
                self._refuse_stale(_state(held), site, epoch)
                if _same(held, wanted):
                    return _known(wanted)
                self._zone.replace(held.present, wanted.present)
                return _known(wanted)
            except (ChangeConflict, TrafficUnavailable) as error:
                # Refused: somebody else changed it. No answer: it may have been done. Either way, what is held says.
                problem = error
            if self._clock.monotonic() + wait_seconds > deadline:
                raise TrafficUnavailable(
                    "the traffic record could not be switched in time",
                    where=self._record.name,
                    expected=f"{site} in epoch {epoch} within {self._timeout_seconds:g} s",
                    found=str(problem),
                    fix="Run it again: the switch is idempotent",
                ) from problem
            self._clock.sleep(wait_seconds)
            wait_seconds = min(wait_seconds * 2, _LONGEST_WAIT_SECONDS)

    def _read(self) -> Held:
        return self._zone.read(self._record.name, self._record.type, self.companion_name)

    def _wanted(self, site: str, epoch: int) -> Held:
        if site not in self._record.values:
            raise UnknownName(
                "the traffic record has no value for this site",
                where=self._record.name,
                expected=f"one of {', '.join(sorted(self._record.values))}",
                found=repr(site),
            )
        ttl = self._record.ttl_seconds
        return Held(
            RecordSet(self._record.name, self._record.type, ttl, (self._record.values[site],)),
            RecordSet(self.companion_name, "TXT", ttl, (f'"epoch={epoch} site={site}"',)),
        )

    def _refuse_stale(self, state: TrafficState | None, site: str, epoch: int) -> None:
        if state is None or state.epoch < epoch:
            return
        if state.epoch > epoch or state.site != site:
            raise StaleTrafficEpoch(
                "the traffic record was set in a newer epoch, or in this one for another site",
                where=self._record.name,
                expected=f"epoch {epoch} for {site}",
                found=f"epoch {state.epoch} for {state.site}",
                fix="Read the authority: another plan has moved the group",
            )


def _state(held: Held) -> TrafficState | None:
    if not held.present:
        return None
    match = _COMPANION.fullmatch(held.companion.values[0]) if held.companion is not None else None
    return TrafficState(
        site=match.group(2) if match else None,
        epoch=int(match.group(1)) if match else 0,
        values=held.record.values if held.record is not None else (),
        ttl_seconds=held.record.ttl_seconds if held.record is not None else 0,
    )


def _known(held: Held) -> TrafficState:
    state = _state(held)
    if state is None:
        raise TrafficError("no record was asked for")
    return state


def _same(held: Held, wanted: Held) -> bool:
    """Equal as DNS has it: names regardless of case, values in any order."""

    def plain(one: RecordSet | None) -> tuple[object, ...] | None:
        return None if one is None else (one.name.lower(), one.type, one.ttl_seconds, sorted(one.values))

    return plain(held.record) == plain(wanted.record) and plain(held.companion) == plain(wanted.companion)
