"""The decorators of stores, for their parts: each store decorator wraps its inner store's parts in its own here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from holdfast.engine.objectstore.checksums import Checksums
from holdfast.engine.objectstore.errors import BytesCorrupted, StoreUnavailable
from holdfast.engine.objectstore.interface import ObjectVersion
from holdfast.engine.objectstore.parts._decorator import Asked, PartDecorator
from holdfast.engine.objectstore.parts.interface import PartData, PartStore, Upload, UploadedPart

_T = TypeVar("_T")


class Again(Protocol):
    """Makes a call, again where that may help."""

    def __call__(self, request: Callable[[], _T], /) -> _T: ...


class RetryingParts(PartDecorator):
    """Tries again what got no answer, and a part that arrived damaged.

    All of it may be done twice: a part replaces itself, completing is settled by what is at the key. Only a `begin`
    whose answer was lost leaves an upload behind, without parts, for the sweep.

    Args:
        inner: the parts.
        again: tries a call again.
    """

    def __init__(self, inner: PartStore, again: Again) -> None:
        super().__init__(inner)
        self._again = again

    def around(self, asked: Asked, call: Callable[[], _T]) -> _T:
        if asked.verb != "put_part":
            return self._again(call)

        def send() -> _T:
            try:
                return call()
            except BytesCorrupted as error:
                raise _Damaged(error) from None

        try:
            return self._again(send)
        except _Damaged as damaged:
            raise damaged.error from None


class _Damaged(StoreUnavailable):
    def __init__(self, error: BytesCorrupted) -> None:
        super().__init__(error.what, where=error.where)
        self.error = error


class ThrottledParts(PartDecorator):
    """Keeps requests and bytes under the store's limits.

    Args:
        inner: the parts.
        request: waits until a request may be made.
        carry: waits until so many bytes may flow.
    """

    def __init__(self, inner: PartStore, request: Callable[[], None], carry: Callable[[int], None]) -> None:
        super().__init__(inner)
        self._request = request
        self._carry = carry

    def around(self, asked: Asked, call: Callable[[], _T]) -> _T:
        self._request()
        if asked.sends_bytes:
            self._carry(asked.sends_bytes)
        result = call()
        if asked.reads_bytes:
            self._carry(asked.reads_bytes)
        return result


class MeteredParts(PartDecorator):
    """Counts calls, bytes and time.

    Args:
        inner: the parts.
        timed: a context that counts a call of a verb.
        carried: counts bytes of a verb: read, written.
    """

    def __init__(
        self,
        inner: PartStore,
        timed: Callable[[str], AbstractContextManager[None]],
        carried: Callable[[str, int, int], None],
    ) -> None:
        super().__init__(inner)
        self._timed = timed
        self._carried = carried

    def around(self, asked: Asked, call: Callable[[], _T]) -> _T:
        with self._timed(asked.verb):
            result = call()
        if asked.sends_bytes or asked.reads_bytes:
            self._carried(asked.verb, asked.reads_bytes, asked.sends_bytes)
        return result


class FaultyParts(PartDecorator):
    """Goes wrong as the store's faults say.

    Args:
        inner: the parts.
        failing: a context around a call of a verb on a key, which fails before or after it; it gives what damages the
            bytes on their way, if anything does.
    """

    def __init__(
        self,
        inner: PartStore,
        failing: Callable[[str, str], AbstractContextManager[Callable[[bytes], bytes] | None]],
    ) -> None:
        super().__init__(inner)
        self._failing = failing

    def around(self, asked: Asked, call: Callable[[], _T]) -> _T:
        with self._failing(asked.verb, asked.key):
            return call()

    def put_part(self, upload: Upload, number: int, data: PartData, *, checksums: Checksums) -> UploadedPart:
        with self._failing("put_part", upload.key) as damage:
            sent = data if damage is None else damage(bytes(data))
            return self.inner.put_part(upload, number, sent, checksums=checksums)

    def read_into(self, key: str, start: int, buffer: memoryview, *, if_match: ObjectVersion) -> None:
        with self._failing("read_into", key) as damage:
            self.inner.read_into(key, start, buffer, if_match=if_match)
            if damage is not None:
                damaged = damage(bytes(buffer))
                buffer[: len(damaged)] = damaged
                buffer[len(damaged) :] = bytes(len(buffer) - len(damaged))
