"""Batches of about 32 MiB, filled object by object."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import pyarrow as pa

from holdfast.engine.audit.interface import Batch, SourceObject

#: About so many bytes of records in a batch; an object that is larger comes alone.
BATCH_BYTES = 32 * 1024 * 1024


class Filling:
    """A batch that is being filled.

    Args:
        most_bytes: of records; with so many it is full.
        most_records: the same; none: however many they are.
    """

    def __init__(self, most_bytes: int = BATCH_BYTES, most_records: int | None = None) -> None:
        self._most_bytes, self._most_records = most_bytes, most_records
        self._begin()

    def _begin(self) -> None:
        self.objects: list[SourceObject] = []
        self._counts: list[int] = []
        self._records: list[bytes] = []
        self._size_bytes = 0

    def add(self, source: SourceObject, records: Sequence[bytes]) -> None:
        """One object with its records."""
        self.objects.append(source)
        self._counts.append(len(records))
        self._records += records
        self._size_bytes += sum(map(len, records))

    @property
    def is_full(self) -> bool:
        """Whether it should be taken."""
        is_long = self._most_records is not None and len(self._records) >= self._most_records
        return is_long or self._size_bytes >= self._most_bytes

    def take(self) -> Batch:
        """What is in it; it is empty then."""
        batch = Batch(tuple(self.objects), tuple(self._counts), binary_array(self._records))
        self._begin()
        return batch


def binary_array(records: Sequence[bytes]) -> pa.LargeBinaryArray:
    """The same as `pa.array`, whose memory would be moved while it grows: that took longer than all copying."""
    offsets = pa.array(accumulate(map(len, records), initial=0), pa.int64())
    data = pa.py_buffer(b"".join(records))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(records), [None, offsets.buffers()[1], data])
