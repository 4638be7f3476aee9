"""What the clouds' locks share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import TypeVar

from holdfast.engine.vault.locks.interface import LockedObject, LockMode

_T = TypeVar("_T")
_R = TypeVar("_R")
_THREADS = 8
_AHEAD = 64


def is_firmer(now: LockedObject, until: datetime, mode: LockMode) -> bool:
    """Whether a lock is as long and as firm as wanted."""
    return now.until is not None and now.until >= until and now.mode in (mode, LockMode.COMPLIANCE)


def at_once(do: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """The results in order, several made at once and few of them ahead."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="vault-locks") as pool:
        waiting: deque[Future[_R]] = deque()
        for item in items:
            waiting.append(pool.submit(do, item))
            if len(waiting) >= _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
