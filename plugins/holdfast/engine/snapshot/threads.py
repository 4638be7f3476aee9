"""The same work on many objects at once, with bounded memory and a quick end at the first failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def in_threads(work: Callable[[_In], _Out], items: Iterable[_In], *, threads: int, name: str) -> Iterator[_Out]:
    """Results as they come, in no order. The first exception ends it; what was not started is not started.

    Args:
        threads: at most so many items at once; at most four times as many are held.
        name: of the threads, for stack dumps.
    """
    source = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        running: set[Future[_Out]] = set()
        try:
            while True:
                running.update(pool.submit(work, item) for item in islice(source, threads * 4 - len(running)))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
