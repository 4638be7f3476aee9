"""The sites an erasure-coded store lies at: asked together, those that do not answer left out for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from holdfast.clock import Clock, SystemClock
from holdfast.engine.objectstore.errors import (
    BucketNotFound,
    ObjectNotFound,
    ObjectStoreError,
    PermissionRefused,
    StoreUnavailable,
)
from holdfast.engine.objectstore.interface import ByteRange, ObjectStore
from holdfast.errors import ConfigError

_T = TypeVar("_T")
_R = TypeVar("_R")
#: A site that did not answer is left out for so long, where others can do without it.
REST_SECONDS = 30.0
_MOST_PROBLEMS = 1000
_AWAY = (StoreUnavailable, PermissionRefused, BucketNotFound)


@dataclass(frozen=True, slots=True)
class ShareProblem:
    """Something a site holds other than it should, or does not hold.

    Args:
        site: which.
        key: of the object; empty: the site itself.
        what: is wrong.
    """

    site: str
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.site}: {self.key}: {self.what}" if self.key else f"{self.site}: {self.what}"


class Problems:
    """What was found wrong, each thing once, the newest thousand. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[ShareProblem, None] = OrderedDict()

    def add(self, site: str, key: str, what: str) -> None:
        with self._lock:
            self._found[ShareProblem(site, key, what)] = None
            if len(self._found) > _MOST_PROBLEMS:
                self._found.popitem(last=False)

    def all(self) -> tuple[ShareProblem, ...]:
        with self._lock:
            return tuple(self._found)

    def clear(self) -> None:
        with self._lock:
            self._found.clear()


class ErasureSite:
    """One site.

    Args:
        name: in messages.
        store: its store.
        number: of the shares it holds.
        left_out: it is not asked at all, as if it were lost.
    """

    def __init__(self, name: str, store: ObjectStore, number: int, clock: Clock, *, left_out: bool = False) -> None:
        self.name, self.store, self.number, self.left_out = name, store, number, left_out
        self._clock = clock
        self._resting_until: float | None = None

    def __repr__(self) -> str:
        return f"<site {self.name}, share {self.number}>"

    @property
    def rests(self) -> bool:
        """It did not answer a moment ago."""
        return self.left_out or (self._resting_until is not None and self._clock.monotonic() < self._resting_until)

    def do(self, call: Callable[[ObjectStore], _T]) -> _T:
        """Ask it, and remember when it does not answer. Raises what the store raises."""
        if self.left_out:
            raise StoreUnavailable("the site is left out on purpose", where=self.name)
        try:
            answer = call(self.store)
        except _AWAY:
            self._resting_until = self._clock.monotonic() + REST_SECONDS
            raise
        except ObjectStoreError:
            self._resting_until = None  # it answered
            raise
        self._resting_until = None
        return answer

    def ask(self, call: Callable[[ObjectStore], Any]) -> Answer:
        """The same, with what the store raises as an answer."""
        try:
            return Answer(self, self.do(call))
        except ObjectStoreError as error:
            return Answer(self, error=error)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one site said: a value, or why not."""

    site: ErasureSite
    value: Any = None
    error: ObjectStoreError | None = None

    @property
    def is_missing(self) -> bool:
        """The site says that it has no such object."""
        return isinstance(self.error, ObjectNotFound)

    @property
    def is_away(self) -> bool:
        """The site does not say anything."""
        return self.error is not None and not self.is_missing


class Sites:
    """All sites of a store.

    Args:
        left_out: names of those that are not asked.

    Raises:
        ConfigError: two have one name.
    """

    def __init__(
        self,
        sites: Sequence[tuple[str, ObjectStore]],
        clock: Clock | None = None,
        *,
        left_out: Container[str] = (),
    ) -> None:
        names = [name for name, _ in sites]
        if len(set(names)) != len(names):
            raise ConfigError("two sites have one name", where="erasure code", found=", ".join(names))
        clock = clock or SystemClock()
        self.all = tuple(
            ErasureSite(name, store, number, clock, left_out=name in left_out)
            for number, (name, store) in enumerate(sites)
        )
        self._pool = ThreadPoolExecutor(4 * len(names), thread_name_prefix="vault-shares")

    @property
    def first(self) -> ErasureSite:
        """The one that decides what is created."""
        return self.all[0]

    @property
    def others(self) -> tuple[ErasureSite, ...]:
        return self.all[1:]

    def awake_first(self) -> tuple[ErasureSite, ...]:
        """All sites, those that did not answer a moment ago last."""
        return tuple(sorted(self.all, key=lambda site: site.rests))

    def parallel(self, items: Iterable[_T], call: Callable[[_T], _R]) -> tuple[_R, ...]:
        """The results in order. What is called here asks one site after the other and nothing in parallel."""
        every = tuple(items)
        if len(every) < 2:
            return tuple(call(item) for item in every)
        return tuple(one.result() for one in tuple(self._pool.submit(call, item) for item in every))

    def ask(
        self,
        sites: Sequence[ErasureSite],
        call: Callable[[ErasureSite], Answer],
        *,
        enough: Callable[[Sequence[Answer]], bool],
    ) -> tuple[Answer, ...]:
        """Ask those that answered a moment ago; the others too where that is not enough."""
        awake = tuple(site for site in sites if not site.rests)
        answers = self.parallel(awake, call)
        if not enough(answers):
            answers += self.parallel(tuple(site for site in sites if site not in awake), call)
        return answers


def get_range(start: int, end: int, key: str) -> Callable[[ObjectStore], bytes]:
    """A call that reads a range."""
    return lambda store: store.get(key, byte_range=ByteRange(start, end))
