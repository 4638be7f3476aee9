"""What the ranks tell each other at each step, in one message of numbers."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.checkpoint.errors import CheckpointError
from holdfast.engine.checkpoint.sharded.ranks import Ranks


@dataclass(frozen=True, slots=True)
class Votes:
    """What is true of at least one rank: the same at all of them, so that all do the same next.

    ``stop``: was asked to leave. ``wanted``: wants a checkpoint. ``busy``: is still saving. ``behind``: does not know
    this step durable. ``taken``: found the step's key taken. ``late``: has no time left. ``problem``: has an error.
    """

    stop: bool
    wanted: bool
    busy: bool
    behind: bool
    taken: bool
    late: bool
    problem: bool


def ask(ranks: Ranks, *, step: int, **facts: bool) -> Votes:
    """Put this rank's facts together with everybody's.

    Raises:
        CheckpointError: the ranks are at different steps; at every rank.
        RankLost: a rank is gone.
    """
    names = sorted(facts)
    greatest, least, *seen = ranks.most([step, -step, *(int(facts[name]) for name in names)])
    if greatest != -least:
        raise CheckpointError(
            "the ranks are at different steps",
            where=f"rank {ranks.rank}",
            expected="the same step at every rank",
            found=f"steps from {-least} to {greatest}",
            fix="Call `step` at every rank after each step",
        )
    return Votes(**{name: bool(one) for name, one in zip(names, seen, strict=True)})
