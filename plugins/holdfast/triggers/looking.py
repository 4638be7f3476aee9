"""Looking again and again from the triggerer, without blocking its event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, TypeVar

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.engine.runtime import Runtime

_Seen = TypeVar("_Seen")


async def looks(
    look: Callable[[Runtime], _Seen],
    *,
    topology_path: str | None,
    window_seconds: float,
    poll_seconds: float,
    unanswered: Callable[[HoldfastError], None],
) -> AsyncIterator[_Seen]:
    """What every look found, until the window is over. One that may be mended by looking again is no finding.

    :param look: runs in a thread.
    :param window_seconds: how long to watch; the last look may be later by one pause.
    :param poll_seconds: between two looks.
    :param unanswered: told why a look failed.
    :raises HoldfastError: one that looking again does not mend.
    """
    deadline = time.monotonic() + window_seconds
    runtime = await asyncio.to_thread(_runtime, topology_path)
    while True:
        try:
            seen = await asyncio.to_thread(look, runtime)
        except HoldfastError as error:
            if not error.transient:
                raise
            unanswered(error)
        else:
            yield seen
        left = deadline - time.monotonic()
        if left <= 0:
            return
        await asyncio.sleep(min(poll_seconds, left))


def _runtime(topology_path: str | None) -> Runtime:
    from holdfast.hooks.runtime import HoldfastHook

    return HoldfastHook(topology_path).runtime
