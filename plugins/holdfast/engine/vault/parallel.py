"""The same for several things at once, where there are several."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def each(action: Callable[[_T], _R], things: Iterable[_T], *, threads: int) -> list[_R]:
    """The results in order. Raises what the first that failed raised."""
    things = list(things)
    if len(things) <= 1:
        return [action(thing) for thing in things]
    with ThreadPoolExecutor(min(threads, len(things))) as pool:
        return list(pool.map(action, things))
