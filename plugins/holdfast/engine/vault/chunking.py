"""Content-defined chunks: where a stream is cut depends on its bytes near the cut, so an insertion moves few cuts.

FastCDC (Xia et al., IEEE TPDS 2020) with a table altered by the repository's secret seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from holdfast.errors import ConfigError

KIB = 1024
#: About 256 KiB: what tables and small files want.
TABLES = 256 * KIB
#: About 2 MiB: what checkpoints and models want, which change as a whole or not at all.
CHECKPOINTS = 2 * KIB * KIB
_SMALLEST, _LARGEST = 16 * KIB, 4 * KIB * KIB


@dataclass(frozen=True)
class Chunker:
    """Cuts content.

    Args:
        average_bytes: about how long a chunk is; a power of two.
        seed: of the repository.
    """

    average_bytes: int
    seed: int

    def __post_init__(self) -> None:
        size = self.average_bytes
        if not _SMALLEST <= size <= _LARGEST or size & (size - 1):
            raise ConfigError(
                "this chunk size is not possible",
                where="chunk_bytes",
                expected=f"a power of two from {_SMALLEST} to {_LARGEST}",
                found=str(size),
            )

    @property
    def smallest_bytes(self) -> int:
        return self.average_bytes // 4

    @property
    def largest_bytes(self) -> int:
        return self.average_bytes * 4

    @cached_property
    def _cdc(self) -> Any:
        from pyfastcdc import FastCDC

        return FastCDC(
            self.average_bytes,
            min_size=min(self.smallest_bytes, KIB * KIB),
            max_size=self.largest_bytes,
            normalized_chunking=1,
            seed=self.seed,
        )

    def cut(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """The chunks of bytes in memory. Empty content has none."""
        if len(data) <= self.smallest_bytes:
            if data:
                yield memoryview(data)
            return
        for chunk in self._cdc.cut_buf(data):
            yield chunk.data

    def cut_stream(self, pieces: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
        """The chunks of a stream, in bounded memory. Each is valid until the next is taken."""
        for chunk in self._cdc.cut_stream(_Pieces(pieces)):
            yield chunk.data


class _Pieces:
    """An iterator of bytes as something to read from."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = iter(pieces)
        self._left = memoryview(b"")

    def readinto(self, buffer: memoryview) -> int:
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view):
            if not self._left:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._left = memoryview(piece)
                continue
            taken = min(len(self._left), len(view) - filled)
            view[filled : filled + taken] = self._left[:taken]
            self._left = self._left[taken:]
            filled += taken
        return filled
