"""Where a backup comes from: a snapshot of a site, a local tree, or a stream that tells how it ended."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from holdfast.engine.snapshot.manifest import ManifestEntry
from holdfast.engine.snapshot.opened import OpenSnapshot
from holdfast.engine.vault.content import content_of
from holdfast.engine.vault.errors import SourceChanged, SourceFailed
from holdfast.errors import ConfigError

_PIECE_BYTES = 4 * 1024 * 1024
#: What it is when a file went away, or became a link, since it was listed.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO)
#: Of a file: small enough to be still in the processor's cache when it is hashed and cut.
_FILE_PIECE_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class SourceObject:
    """One object to back up.

    Args:
        size_bytes: as far as it is known before it is read.
        state: equal to that of the last backup: it is not read again.
        digest: of its content where the source vouches for it; what is read must have it.
        is_small: it may be read whole into memory.
    """

    path: str
    size_bytes: int | None
    modified_at: datetime | None
    state: str | None
    digest: str | None
    mode: int | None


class Source(Protocol):
    """What can be backed up."""

    @property
    def name(self) -> str:
        """Backups of one name form a series."""

    @property
    def kind(self) -> str:
        """``snapshot``, ``tree`` or ``stream``."""

    @property
    def taken_at(self) -> datetime:
        """The point in time its content is of."""

    @property
    def origin(self) -> Mapping[str, Any]:
        """What it says of itself, JSON-able."""

    @property
    def is_remote(self) -> bool:
        """Reading one object takes a request, so several are read ahead."""

    def objects(self) -> Iterable[SourceObject]:
        """All objects, in path order."""

    def read(self, item: SourceObject) -> Iterator[bytes | memoryview]:
        """The content of one, in pieces, each valid until the next is taken. Raises SourceChanged, ObjectDamaged."""

    def finish(self) -> None:
        """After everything was read, before it becomes a backup. Raises SourceFailed."""


@dataclass(frozen=True)
class SnapshotSource:
    """A published snapshot of a dataset or model, read by its manifest.

    Args:
        name: of the series; usually the dataset's.
        site: where it is read.
        notes: further facts for the backup to record of it, JSON-able, e.g. what a model answers.
        describes: record the rows and schemas of its Parquet objects, by their footers, for a restore drill to compare.
        only: back up these of its objects; ``None``: all.
    """

    name: str
    site: str
    snapshot: OpenSnapshot
    kind: str = "snapshot"
    is_remote: bool = True
    notes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    describes: bool = True
    only: frozenset[str] | None = field(default=None, repr=False)

    @property
    def taken_at(self) -> datetime:
        return self.snapshot.record.committed_at

    @property
    def origin(self) -> Mapping[str, Any]:
        record = self.snapshot.record
        return {
            "site": self.site,
            "dataset": record.dataset,
            "path": record.path,
            "snapshot": record.snapshot_id,
            "epoch": record.epoch,
            "manifest_digest": record.manifest_digest,
            "labels": dict(record.labels),
            **({"content": self._content} if self.describes else {}),
            **self.notes,
        }

    @cached_property
    def _content(self) -> dict[str, Any]:
        entries = ((entry.path, entry.size_bytes) for entry in self._entries())
        return content_of(entries, self.snapshot.read_range)

    def _entries(self) -> Iterator[ManifestEntry]:
        for entry in self.snapshot.manifest.entries():
            if self.only is None or entry.path in self.only:
                yield entry

    def objects(self) -> Iterator[SourceObject]:
        for entry in self._entries():
            yield SourceObject(entry.path, entry.size_bytes, entry.modified_at, entry.digest, entry.digest, None)

    def read(self, item: SourceObject) -> Iterator[bytes]:
        size = item.size_bytes or 0
        if size <= 2 * _PIECE_BYTES:
            yield self.snapshot.read(item.path)
            return
        for start in range(0, size, _PIECE_BYTES):
            yield self.snapshot.read_range(item.path, start, start + _PIECE_BYTES)

    def finish(self) -> None:
        return None


@dataclass(frozen=True)
class TreeSource:
    """A folder of this machine.

    Symbolic links, sockets and devices are not followed and not kept: `skipped` names them.

    Args:
        name: of the series.
        folder: its root.
        taken_at: the point in time; when the walk begins.
    """

    name: str
    folder: Path
    taken_at: datetime
    kind: str = "tree"
    is_remote: bool = False
    skipped: list[str] = field(default_factory=list)

    @property
    def origin(self) -> Mapping[str, Any]:
        return {"folder": str(self.folder.resolve()), "skipped": self.skipped[:100], "skipped_count": len(self.skipped)}

    def objects(self) -> Iterator[SourceObject]:
        """Raises ConfigError, SourceChanged, SourceFailed."""
        with _telling(str(self.folder), "a folder"):
            there = self.folder.is_dir()
        if not there:
            raise ConfigError("there is no such folder", where=str(self.folder), expected="a folder", found="none")
        self.skipped.clear()
        found = sorted(self._walk(), key=lambda entry: entry[0])
        for path, status in found:
            yield SourceObject(
                path,
                status.st_size,
                _moment(status.st_mtime_ns),
                _state(status),
                None,
                stat.S_IMODE(status.st_mode),
            )

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        folders = [(str(self.folder), "")]
        while folders:
            folder, prefix = folders.pop()
            with _telling(folder, "what was listed"), os.scandir(folder) as entries:
                for entry in entries:
                    path = prefix + entry.name
                    try:
                        path.encode()
                    except UnicodeEncodeError:
                        self.skipped.append(path.encode(errors="backslashreplace").decode())
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((entry.path, f"{path}/"))
                    elif entry.is_file(follow_symlinks=False):
                        yield path, entry.stat(follow_symlinks=False)
                    else:
                        self.skipped.append(path)

    def read(self, item: SourceObject) -> Iterator[bytes | memoryview]:
        where, listed = f"{self.folder}/{item.path}", str(item.state)
        with _telling(where, listed):
            # A pipe that took the file's place must not make it wait for who writes there.
            descriptor = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                size = item.size_bytes or 0
                data = os.read(descriptor, size + 1) if size < _FILE_PIECE_BYTES else b""
                if data:
                    yield data
                if len(data) != size or not size:
                    yield from _in_pieces(descriptor)
                if _state(os.fstat(descriptor)) != item.state:
                    raise _changed(where, listed, "another state after it was read")
            finally:
                os.close(descriptor)

    def finish(self) -> None:
        return None


def _in_pieces(descriptor: int) -> Iterator[memoryview]:
    """A file's content, all pieces in the same memory: new memory for each costs more than reading does."""
    view = memoryview(bytearray(_FILE_PIECE_BYTES))
    while count := os.readv(descriptor, [view]):
        yield view[:count]


@contextmanager
def _telling(where: str, listed: str) -> Iterator[None]:
    """What the machine's file system refuses, as an error of ours."""
    try:
        yield
    except OSError as error:
        where, found = str(error.filename or where), str(error.strerror)
        if error.errno in _GONE:
            raise _changed(where, listed, found) from None
        raise SourceFailed(
            "it cannot be read",
            where=where,
            expected="a folder whose files can all be read",
            found=found,
            fix="No backup was made. Run it as somebody who may read everything there, or have the disk checked",
        ) from None


def _changed(where: str, expected: str, found: str) -> SourceChanged:
    return SourceChanged(
        "a file changed while it was backed up",
        where=where,
        expected=expected,
        found=found,
        fix="Back up a folder that nobody writes, or a snapshot of it",
    )


def _moment(since_1970_ns: int) -> datetime | None:
    """``None``: a time that no calendar of ours has."""
    try:
        return datetime.fromtimestamp(since_1970_ns // 1000 / 1_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _state(status: os.stat_result) -> str:
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"


@dataclass(frozen=True)
class StreamSource:
    """One stream, e.g. a database dump.

    Args:
        name: of the series.
        path: what its one object is called.
        pieces: gives the stream; called once.
        ended_well: called after the last byte; raises SourceFailed where the producer failed or fell short.
        extra: further small objects that belong to it, by path.
    """

    name: str
    path: str
    pieces: Callable[[], Iterator[bytes]]
    ended_well: Callable[[], None]
    taken_at: datetime
    origin: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, bytes] = field(default_factory=dict)
    kind: str = "stream"
    is_remote: bool = False

    def objects(self) -> Iterator[SourceObject]:
        for path in sorted({self.path, *self.extra}):
            size = len(self.extra[path]) if path in self.extra else None
            yield SourceObject(path, size, self.taken_at, None, None, None)

    def read(self, item: SourceObject) -> Iterator[bytes]:
        if item.path in self.extra:
            yield self.extra[item.path]
        else:
            yield from self.pieces()

    def finish(self) -> None:
        """Raises SourceFailed."""
        self.ended_well()


def failed(what: str, *, where: str, expected: str, found: str) -> SourceFailed:
    """The error of a producer that failed."""
    return SourceFailed(
        what,
        where=where,
        expected=expected,
        found=found,
        fix="No backup was made of it; the older ones are as they were",
    )
