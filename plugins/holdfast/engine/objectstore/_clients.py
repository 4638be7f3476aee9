"""The obstore clients of one store: made late, shared, and never used across a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.engine.objectstore.errors import BucketNotFound, ObjectStoreError
from holdfast.engine.objectstore.timeouts import RequestLimits
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

_forked_from: int | None = None
_first_use = threading.Lock()


class Clients:
    """obstore clients of one store, one per set of limits, made on first use.

    obstore's Rust runtime is started by the first request of a process and is dead in a forked child, where every call
    would hang for ever (seen by experiment). So nothing is made before the first call, and a child whose parent has
    already made one is told so at once.
    """

    def __init__(self, build: Callable[[RequestLimits], Client]) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._made: dict[RequestLimits, Client] = {}

    def get(self, limits: RequestLimits, where: str) -> Client:
        _check_not_forked(where)
        made = self._made.get(limits)
        if made is not None:
            return made
        with self._lock:
            if limits not in self._made:
                self._made[limits] = self._make(limits, where)
            return self._made[limits]

    def _make(self, limits: RequestLimits, where: str) -> Client:
        try:
            return self._build(limits)
        except BucketNotFound:
            raise
        except Exception as error:
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                "the store's client cannot be made",
                where=where,
                found=line[:300],
                fix="Check the site in the topology and its connection",
            ) from None


def _check_not_forked(where: str) -> None:
    global _forked_from
    pid = os.getpid()
    if _forked_from is None:
        with _first_use:
            _forked_from = _forked_from or pid
    if _forked_from != pid:
        raise ObjectStoreError(
            "this process was forked from one that already used an object store",
            where=where,
            expected="the first use of any store after the fork",
            found=f"used in process {_forked_from}",
            fix="Start the process with spawn, or keep its parent away from object stores",
        )
