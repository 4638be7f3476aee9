"""Chunks handed from one thread to another, so that a streamed put may be fed by a read of another store.

obstore pulls a put's iterator from inside its own runtime, where any other blocking obstore call panics ("Cannot start
a runtime from within a runtime"). So the source is read in a thread of its own, at most two chunks ahead.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

_AHEAD = 2
_POLL_SECONDS = 0.1


class Handover:
    """An iterator over ``source``, which runs in a thread until this is closed. Use it as a context manager.

    ``error`` is what the source raised, so that it is not taken for the failure of the store it was fed to.
    """

    def __init__(self, source: Iterator[bytes]) -> None:
        self.error: BaseException | None = None
        self._source = source
        self._chunks: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="objectstore-handover", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self._chunks.get()
        if chunk is None:
            if self.error is not None:
                raise self.error
            raise StopIteration
        return chunk

    def _read(self) -> None:
        try:
            for chunk in self._source:
                if not self._hand(chunk):
                    return
        except BaseException as error:  # whatever it is, the reader of this iterator gets it
            self.error = error
        self._hand(None)

    def _hand(self, chunk: bytes | None) -> bool:
        """Wait for a place; False when nobody takes chunks any more."""
        while not self._closed.is_set():
            try:
                self._chunks.put(chunk, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False
