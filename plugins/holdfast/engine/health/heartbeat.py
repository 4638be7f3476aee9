"""The heartbeat object ``health/<site>.json``: pushed by a site's agent into every bucket it can reach, read by all.

A heartbeat is fresh when it *changes*. Readers compare it with what they saw before, on their own monotonic clock; the
clocks of two machines are never compared to call somebody dead.

docs/formats/heartbeat.md specifies the bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast.engine.health.interface import Observation, Signal
from holdfast.errors import HoldfastError

FORMAT = "holdfast.heartbeat/1"


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
    return json.dumps({
        "format": FORMAT,
        "site": beat.site,
        "agent": beat.agent,
        "sequence": beat.sequence,
        "sent_at": beat.sent_at.isoformat(),
        "groups": {
            name: {"role": g.role, "epoch": g.epoch, "may_write": g.may_write, "fenced": g.fenced}
            for name, g in beat.groups.items()
        },
        "observations": [
            {"site": o.site, "signal": o.signal.value, "ok": o.ok, "observed_at": o.observed_at.isoformat(),
             "latency_seconds": o.latency_seconds, "detail": o.detail}
            for o in beat.observations
        ],
    }, ensure_ascii=False, separators=(",", ":")).encode()


def decode(body: bytes, *, where: str) -> Heartbeat:
    """The heartbeat in these bytes. Raises HeartbeatUnreadable."""
    try:
        document: Any = json.loads(body)
        if document["format"] != FORMAT:
            raise HeartbeatUnreadable("this is no heartbeat", where=where, expected=FORMAT,
                                      found=str(document["format"]))
        return Heartbeat(
            site=document["site"], agent=document["agent"], sequence=int(document["sequence"]),
            sent_at=datetime.fromisoformat(document["sent_at"]),
            groups={name: GroupBeat(g["role"], g["epoch"], g["may_write"], g["fenced"])
                    for name, g in document["groups"].items()},
            observations=tuple(
                Observation(site=o["site"], vantage=document["site"], signal=Signal(o["signal"]), ok=o["ok"],
                            observed_at=datetime.fromisoformat(o["observed_at"]),
                            latency_seconds=o["latency_seconds"], detail=o["detail"])
                for o in document["observations"]
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeartbeatUnreadable("the heartbeat cannot be read", where=where, expected=FORMAT,
                                  found=f"{type(error).__name__}: {error}") from None
