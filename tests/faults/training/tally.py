"""What really happened in the runs of a test process, counted, so that a fault nobody meets any more is noticed."""

from __future__ import annotations

from collections import Counter

#: What each file of the suite must have met, whatever its adapters.
EXPECTED = (
    "run",
    "killed at a step",
    "killed before blob at own",
    "killed after blob at own",
    "killed before manifest at own",
    "killed after manifest at own",
    "killed before blob at standby",
    "killed after blob at standby",
    "killed before receipt at standby",
    "killed after receipt at standby",
    "killed before manifest at standby",
    "killed after manifest at standby",
    "killed before heartbeat at own",
    "killed after heartbeat at own",
    "killed at an instant",
    "killed inside a write",
    "asked to leave",
    "failover",
    "failover from both directions",
    "zombie",
    "zombie with a stale lease",
    "stale write attempted",
    "stale checkpoint taken by a store",
    "zombie fenced",
    "blob flipped",
    "blob truncated",
    "manifest flipped",
    "manifest truncated",
    "passed over the newest",
    "503",
    "answer lost",
    "disk full",
    "standby down",
    "clock an hour ahead",
    "clock an hour behind",
    "clock jumped ahead",
    "clock jumped back",
    "resumed bitwise",
    "resumed numerically equivalent",
    "saved in mode copy",
    "saved in mode blocking",
    "run on s3",
    "run in folders",
)


class Tally(Counter[str]):
    """Counts by name."""

    def absent(self, *more: str) -> list[str]:
        """What was expected and never happened."""
        return [name for name in (*EXPECTED, *more) if not self[name]]
