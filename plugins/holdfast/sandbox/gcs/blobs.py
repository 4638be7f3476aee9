"""Content: small content lies in the database, larger content in files that are written once.

A content file is written under its final, random name, synced with its folder, and only then named by
a record in the database. What a crash leaves unnamed is removed at the next start. Nothing is ever
overwritten, so a reader needs no lock; a file that lost its last user stays until its readers are done.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from holdfast.sandbox.gcs.checksums import Checksums, Hasher

INLINE_BYTES = 32 * 1024
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Content:
    """Content that is written but belongs to nothing yet.

    Attributes:
        blob_id: its name.
        size_bytes: how many bytes.
        data: the bytes when they are to lie in the database, None when they are in a file.
        checksums: what they hash to.
    """

    blob_id: str
    size_bytes: int
    data: bytes | None
    checksums: Checksums


@dataclass(frozen=True)
class Segment:
    """One piece of an object's content."""

    blob_id: str
    size_bytes: int
    data: bytes | None


class BlobStore:
    """The folder of content files.

    Args:
        folder: where they lie; created when absent.
        sync: sync content to disk before it is acknowledged.
    """

    def __init__(self, folder: Path, *, sync: bool) -> None:
        self._folder = folder
        self._sync = sync
        self._lock = threading.Lock()
        self._readers: Counter[str] = Counter()
        self._doomed: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def new_id(self) -> str:
        """A name no other content has."""
        return secrets.token_hex(16)

    def path(self, blob_id: str) -> Path:
        """Where the content file of that name lies."""
        return self._folder / blob_id[:2] / blob_id

    def create(self, blob_id: str) -> Path:
        """An empty content file, unless it is there already."""
        path = self.path(blob_id)
        if not path.parent.is_dir():
            path.parent.mkdir(exist_ok=True)
            if self._sync:
                sync_folder(self._folder)
        path.touch()
        return path

    def sweep(self, connection: sqlite3.Connection, keep: set[str]) -> int:
        """Remove the files a crash left that no record names; returns how many.

        Args:
            connection: the database.
            keep: files in use by unfinished uploads.
        """
        removed = 0
        for folder in self._folder.iterdir():
            for file in folder.iterdir():
                named = connection.execute("SELECT 1 FROM blob WHERE id = ?", (file.name,)).fetchone()
                if named is None and file.name not in keep:
                    file.unlink()
                    removed += 1
        return removed

    async def receive(self, stream: AsyncIterator[bytes]) -> Content:
        """Take in a whole stream; nothing larger than a chunk is held in memory."""
        hasher = Hasher()
        blob_id = self.new_id()
        buffer = bytearray()
        file: BinaryIO | None = None
        try:
            async for data in stream:
                buffer += data
                if len(buffer) >= CHUNK_BYTES or (file is None and len(buffer) > INLINE_BYTES):
                    if file is None:
                        file = self.create(blob_id).open("wb", buffering=0)
                        if len(buffer) < CHUNK_BYTES:
                            continue
                    await asyncio.to_thread(_append, file, bytes(buffer), hasher)
                    buffer = bytearray()
            if file is None:
                hasher.update(bytes(buffer))
                return Content(blob_id, len(buffer), bytes(buffer), hasher.digest())
            await asyncio.to_thread(self._finish, file, bytes(buffer), hasher)
            return Content(blob_id, hasher.size_bytes, None, hasher.digest())
        except BaseException:
            if file is not None:
                file.close()
                self.path(blob_id).unlink(missing_ok=True)
            raise

    def _finish(self, file: BinaryIO, rest: bytes, hasher: Hasher) -> None:
        _append(file, rest, hasher)
        self.make_durable(file)
        file.close()

    def make_durable(self, file: BinaryIO) -> None:
        """Sync a content file and its folder entry."""
        if self._sync:
            os.fsync(file.fileno())
            sync_folder(Path(file.name).parent)

    def discard(self, content: Content) -> None:
        """Remove content that will not be used after all."""
        if content.data is None:
            self.remove([content.blob_id])

    def remove(self, blob_ids: list[str]) -> None:
        """Remove content files, each as soon as nobody reads it."""
        for blob_id in blob_ids:
            with self._lock:
                if self._readers[blob_id]:
                    self._doomed.add(blob_id)
                    continue
            self.path(blob_id).unlink(missing_ok=True)

    @contextmanager
    def reading(self, segments: list[Segment]) -> Iterator[None]:
        """Keep these segments' files while they are read."""
        with self._lock:
            self._readers.update(segment.blob_id for segment in segments)
        try:
            yield
        finally:
            freed = []
            with self._lock:
                for segment in segments:
                    self._readers[segment.blob_id] -= 1
                    if not self._readers[segment.blob_id]:
                        del self._readers[segment.blob_id]
                        if segment.blob_id in self._doomed:
                            self._doomed.discard(segment.blob_id)
                            freed.append(segment.blob_id)
            for blob_id in freed:
                self.path(blob_id).unlink(missing_ok=True)

    async def read(self, segments: list[Segment], start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes `start` up to, not including, `end` of the concatenated segments, in chunks.

        Raises:
            OSError: a content file is shorter than its record says.
        """
        position = 0
        for segment in segments:
            first, last = max(start - position, 0), min(end - position, segment.size_bytes)
            position += segment.size_bytes
            if first >= last:
                continue
            if segment.data is not None:
                yield segment.data[first:last]
                continue
            with self.path(segment.blob_id).open("rb", buffering=0) as file:
                file.seek(first)
                while first < last:
                    want = min(CHUNK_BYTES, last - first)
                    # What the page cache holds is copied faster than a thread is woken.
                    data = file.read(want) if want <= 65536 else await asyncio.to_thread(file.read, want)
                    if not data:
                        raise OSError(f"content file {segment.blob_id} ends {last - first} bytes too early")
                    first += len(data)
                    yield data


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _append(file: BinaryIO, data: bytes, hasher: Hasher) -> None:
    write_all(file, data)
    hasher.update(data)


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write every byte, however many calls it takes."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
