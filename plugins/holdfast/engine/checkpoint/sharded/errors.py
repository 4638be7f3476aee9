"""What went wrong at the ranks, as one error: DCP gathers one per rank and raises them all, wrapped, everywhere."""

from __future__ import annotations

from typing import Any

from holdfast.engine.checkpoint.errors import CheckpointError, Fenced
from holdfast.engine.checkpoint.sharded.ranks import retold, told
from holdfast.errors import HoldfastError


def told_by_dcp(error: Any, otherwise: type[CheckpointError], what: str) -> HoldfastError:
    """The one error behind a ``CheckpointException``: what ends the run before what waiting cures, low ranks first.

    Args:
        otherwise: the kind of an error that is none of Holdfast's.
        what: its sentence.
    """
    failures = sorted(error.failures.items())
    ours = [(rank, one) for rank, (one, _) in failures if isinstance(one, HoldfastError)]
    if ours:
        rank, first = min(ours, key=lambda pair: (not isinstance(pair[1], Fenced), pair[1].transient, pair[0]))
        if len(failures) == 1 and rank == 0:
            return first
        return retold(told(first), rank)
    if not failures:
        return otherwise(what)
    rank, (first, _) = failures[0]
    return otherwise(what, where=f"rank {rank}", found=f"{type(first).__name__}: {first}")
