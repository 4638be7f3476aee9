"""The heartbeat object ``health/<site>.json``: pushed by a site's agent into every bucket it can reach, read by all.

A heartbeat is fresh when it *changes*. Readers compare it with what they saw before, on their own monotonic clock; the
clocks of two machines are never compared to call somebody dead.

docs/formats/heartbeat.md specifies the bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import rfc8785

from holdfast.engine.health.interface import Observation, Signal
from holdfast.errors import HoldfastError

FORMAT = "holdfast.heartbeat/1"
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class HeartbeatUnreadable(HoldfastError):
    """The object is no heartbeat this version reads."""


@dataclass(frozen=True, slots=True)
class GroupBeat:
    """What the site says of itself in one group."""

    role: str
    epoch: int | None
    may_write: bool
    fenced: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One beat.

    Attributes:
        agent: id of the agent's process; new at every start.
        sequence: grows by one per beat of this agent.
        groups: the site's roles, by group.
        observations: what this site saw of the others last, one per site and signal.
    """

    site: str
    agent: str
    sequence: int
    sent_at: datetime
    groups: dict[str, GroupBeat]
    observations: tuple[Observation, ...] = ()


def key_of(site: str) -> str:
    """Where a site's heartbeat lies, in every bucket."""
    return f"health/{site}.json"


def encode(beat: Heartbeat) -> bytes:
    """The bytes of a heartbeat: canonical JSON (RFC 8785)."""
    return rfc8785.dumps(
        {
            "format": FORMAT,
            "site": beat.site,
            "agent": beat.agent,
            "sequence": beat.sequence,
            "sent_at": _time_to_json(beat.sent_at),
            "groups": {
                name: {"role": g.role, "epoch": g.epoch, "may_write": g.may_write, "fenced": g.fenced}
                for name, g in beat.groups.items()
            },
            "observations": [
                {
                    "site": o.site,
                    "signal": o.signal.value,
                    "ok": o.ok,
                    "observed_at": _time_to_json(o.observed_at),
                    "latency_seconds": o.latency_seconds,
                    "detail": o.detail,
                }
                for o in beat.observations
            ],
        }
    )


def decode(body: bytes, *, where: str) -> Heartbeat:
    """The heartbeat in these bytes. Raises HeartbeatUnreadable."""
    try:
        document: Any = json.loads(body)
        if document["format"] != FORMAT:
            raise HeartbeatUnreadable(
                "this is no heartbeat", where=where, expected=FORMAT, found=str(document["format"])
            )
        return Heartbeat(
            site=document["site"],
            agent=document["agent"],
            sequence=int(document["sequence"]),
            sent_at=_time_from_json(document["sent_at"]),
            groups={
                name: GroupBeat(g["role"], g["epoch"], g["may_write"], g["fenced"])
                for name, g in document["groups"].items()
            },
            observations=tuple(
                Observation(
                    site=o["site"],
                    vantage=document["site"],
                    signal=Signal(o["signal"]),
                    ok=o["ok"],
                    observed_at=_time_from_json(o["observed_at"]),
                    latency_seconds=o["latency_seconds"],
                    detail=o["detail"],
                )
                for o in document["observations"]
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeartbeatUnreadable(
            "the heartbeat cannot be read", where=where, expected=FORMAT, found=f"{type(error).__name__}: {error}"
        ) from None


def _time_to_json(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(_TIME)


def _time_from_json(text: str) -> datetime:
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
