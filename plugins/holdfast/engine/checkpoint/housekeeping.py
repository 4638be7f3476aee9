"""Retention while a run goes on: a collection at a site every few of its checkpoints, in the thread that writes there.

In that thread, because a collection and a save of the same process then never meet: a blob is not deleted while a
checkpoint that shares it is on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.checkpoint.collect import collect
from holdfast.engine.checkpoint.elect import Allowed
from holdfast.engine.checkpoint.guard import WriteGuard
from holdfast.engine.checkpoint.retention import KeepPolicy
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectReader, ObjectStore
from holdfast.errors import HoldfastError

#: Longer than a restore, a replication or a save takes, and a working day for a person to look at what was retired.
GRACE_SECONDS = 24 * 3600.0
EVERY_SAVES = 10


@dataclass(frozen=True, slots=True)
class Retention:
    """What to keep at every site of a run, and how often to look.

    Args:
        grace_seconds: how long the blobs of a retired checkpoint stay.
        every_saves: a collection after so many checkpoints, and after the first of a process. Each reads the newest
            checkpoint in full, so that something verified stays.
    """

    policy: KeepPolicy
    grace_seconds: float = GRACE_SECONDS
    every_saves: int = EVERY_SAVES


class PutOff(HoldfastError):
    """A collection made way for a save that cannot wait."""

    transient = True


class _Interruptible(StoreDecorator):
    """A store whose next operation, or piece of a read, is refused once something more urgent is to be done."""

    def __init__(self, inner: ObjectStore, urgent: Callable[[], bool]) -> None:
        super().__init__(inner)
        self._urgent = urgent

    def _check(self) -> None:
        if self._urgent():
            raise PutOff("a collection makes way for the last save", where=self.name)

    def open(self, key: str, **how: Any) -> ObjectReader:
        self._check()
        reader = super().open(key, **how)
        return replace(reader, chunks=self._checked(reader.chunks))

    def _checked(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._check()
            yield chunk

    def get(self, key: str, **how: Any) -> bytes:
        self._check()
        return super().get(key, **how)

    def head(self, key: str) -> ObjectInfo:
        self._check()
        return super().head(key)

    def delete(self, key: str, **how: Any) -> None:
        self._check()
        super().delete(key, **how)


class Housekeeper:
    """Collects at one site.

    Args:
        site: the store's; asks for receipts, as an election there does.
        forget: called when a blob went that a committed checkpoint names: what is known to be there is not.
        urgent: whether the thread is needed at once; a collection under way is then put off. It may end anywhere.
    """

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        retention: Retention,
        *,
        epoch: int,
        site: str,
        guard: WriteGuard,
        clock: Clock,
        allowed: Allowed | None = None,
        forget: Callable[[], None] = lambda: None,
        urgent: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = _Interruptible(store, urgent)
        self._run = run
        self._retention = retention
        self._epoch = epoch
        self._site = site
        self._guard = guard
        self._clock = clock
        self._allowed = allowed
        self._forget = forget
        self._saves = 0
        self._facts: dict[str, Any] = {}

    def committed(self) -> bool:
        """One more checkpoint is there. A collection that fails is told in `facts`, and made again when it is due.

        Returns:
            whether blobs may have gone; one that failed half-way does not tell what it had deleted.
        """
        due = self._saves % self._retention.every_saves == 0
        self._saves += 1
        if not due:
            return False
        try:
            done = collect(
                self._store,
                self._run,
                self._retention.policy,
                epoch=self._epoch,
                guard=self._guard,
                clock=self._clock,
                grace_seconds=self._retention.grace_seconds,
                site=self._site,
                allowed=self._allowed,
            )
        except PutOff:
            self._saves = 0  # again after the next
            return True
        except Exception as error:  # training and replication go on, whatever a bucket holds
            told = str(error) if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}"
            self._facts = {**self._facts, "error": told}
            return True
        if done.endangered:
            self._forget()
        self._facts = {
            "retained": len(done.choice.retained),
            "retired": self._facts.get("retired", 0) + len(done.choice.retired),
            "deleted_blobs": self._facts.get("deleted_blobs", 0) + len(done.deleted_blobs),
            "waiting": len(done.waiting),
            "endangered": list(done.endangered),
            "error": None,
        }
        return bool(done.deleted_blobs)

    def facts(self) -> dict[str, Any]:
        """For the heartbeat: what is kept, what went since this process began, and why the last one failed."""
        return dict(self._facts)
