"""Requests that are sent now and whose answers are taken later, so that one thread has several on their way.

What a store may offer beside `ObjectStore`, for small objects. Each is made once: whoever wants it tried again, or is
told ``None``, makes the ordinary call. A place among a site's limits is held until the answer is taken, so:

- take every answer, or abandon it, soon;
- wait for nothing else of the same store while one is on its way, but for other answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar, runtime_checkable

from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.interface import ObjectReader, ObjectStore, ObjectVersion, PutMode

_T_co = TypeVar("_T_co", covariant=True)

#: Larger objects are not worth it, and would wait in the sockets' buffers.
AHEAD_BYTES = 128 * 1024


class Pending(Protocol[_T_co]):
    """A request on its way. One of the two is called, once, by one thread."""

    def result(self) -> _T_co:
        """Wait for the answer. Raises what the ordinary call raises."""

    def abandon(self) -> None:
        """Nobody wants the answer any more. A write may have happened all the same."""


@runtime_checkable
class AheadStore(Protocol):
    """A store that may take requests ahead. ``None``: not this one, or not now."""

    def takes_ahead(self) -> bool:
        """Whether it does at all."""

    def begin_open(self, key: str, *, if_match: ObjectVersion | None, size_bytes: int) -> Pending[ObjectReader] | None:
        """As `ObjectStore.open` of an object of about ``size_bytes``, whole."""

    def begin_put(
        self,
        key: str,
        data: bytes,
        *,
        mode: PutMode,
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> Pending[ObjectVersion] | None:
        """As `ObjectStore.put` of bytes."""


def ahead_store(store: ObjectStore) -> AheadStore | None:
    """The store's own way to take requests ahead, where it has one."""
    return store if isinstance(store, AheadStore) and store.takes_ahead() else None
