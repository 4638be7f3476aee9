"""BLAKE3 digests as they are written everywhere: ``blake3:<64 hex>``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from blake3 import blake3

_Bytes = TypeVar("_Bytes", bytes, bytes | memoryview)

PREFIX = "blake3:"


def digest_of(data: bytes) -> str:
    """The digest of some bytes."""
    return PREFIX + blake3(data).hexdigest()


class Hasher:
    """A digest and a byte count that grow with a stream."""

    def __init__(self) -> None:
        self._hash = blake3()
        self.size_bytes = 0

    def update(self, chunk: bytes | memoryview) -> None:
        self._hash.update(chunk)
        self.size_bytes += len(chunk)

    @property
    def digest(self) -> str:
        return PREFIX + self._hash.hexdigest()

    def through(self, chunks: Iterable[_Bytes]) -> Iterator[_Bytes]:
        """The same chunks, hashed as they pass."""
        for chunk in chunks:
            self.update(chunk)
            yield chunk


def hash_stream(chunks: Iterable[bytes]) -> Hasher:
    """Read a stream to its end, keeping nothing but its digest and size."""
    hasher = Hasher()
    for chunk in chunks:
        hasher.update(chunk)
    return hasher
