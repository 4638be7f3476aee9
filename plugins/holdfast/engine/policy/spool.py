"""The part of the decision log on this machine: a folder per writer, appended and synced before anything is decided.

Layout::

    <writer>/lock            held by the process that writes; the kernel lets go of it, however that process ends
    <writer>/sites.json      which buckets its lines go to
    <writer>/head.json       the last line that lies no more here: its number and hash
    <writer>/<seq>.jsonl     lines from this number on; each file becomes one object, with the same bytes
    <writer>/<seq>.<site>    that object lies at that site

A writer outlives processes: the next one that finds its lock free goes on with its numbers, and ships what was left.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast.engine.policy.records import NOTHING_BEFORE, DecisionRecord, line_hash, object_key, read_lines

log = logging.getLogger("holdfast.policy")

#: Of each site what says where its bucket is: cloud, bucket, prefix.
Destinations = Mapping[str, tuple[str, str, str]]
#: At so many sites a line must lie before this machine forgets it, where there are so many.
COPIES = 2
#: An object of the log is not longer than about this.
SEGMENT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Segment:
    """A file of lines that nothing is added to any more."""

    path: Path
    first: DecisionRecord
    groups: frozenset[str]
    data: bytes

    @property
    def key(self) -> str:
        """Of its object in a bucket."""
        return object_key(self.first)

    def mark(self, site: str) -> Path:
        """The file that says it lies at a site."""
        return self.path.with_name(f"{self.path.stem}.{site}")

    def is_safe(self, sites: Sequence[str]) -> bool:
        """Whether it lies at enough of these sites for this machine to forget it."""
        return sum(self.mark(site).exists() for site in sites) >= min(COPIES, len(sites)) > 0


class Slot:
    """One writer's folder, held by this process until it is closed or ends.

    Raises (each method): OSError: the disk; nothing was written then.
    """

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder, self._lock = folder, lock
        self.writer = folder.name
        self._file: int | None = None
        self._path: Path | None = None
        self._bytes = 0
        self._hour = ""
        self.seq, self.previous = self._head()

    def _head(self) -> tuple[int, str]:
        """Number and hash of the last line. A torn line is dropped: nobody acted on it."""
        found = [(0, NOTHING_BEFORE)]
        with suppress(FileNotFoundError):
            head = json.loads((self.folder / "head.json").read_bytes())
            found.append((int(head["seq"]), str(head["sha256"])))
        paths = self._paths()
        if paths:
            _drop_torn_line(paths[-1])
            found += [_last_line(data) for path in paths if (data := path.read_bytes())]
        return max(found)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.jsonl"))

    def append(self, record: DecisionRecord) -> None:
        """Write the next line down, for good."""
        line, hour = record.to_line(), f"{record.at:%Y%m%d%H}"
        if self._file is None or hour != self._hour or self._bytes >= SEGMENT_BYTES:
            self.close_segment()
            self._path = self.folder / f"{record.seq:08}.jsonl"
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._bytes, self._hour = 0, hour
            _sync_folder(self.folder)
        data = line + b"\n"
        try:
            if os.write(self._file, data) != len(data):
                raise OSError("the disk took a part of a line only")
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._bytes)
            raise
        self._bytes += len(data)
        self.seq, self.previous = record.seq, line_hash(line)

    def close_segment(self) -> None:
        """Have the next line begin a file of its own."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            if self._bytes == 0 and self._path is not None:
                self._path.unlink(missing_ok=True)

    def segments(self) -> Iterator[Segment]:
        """What is to be shipped, oldest first. Raises DecisionLogDamaged."""
        self.close_segment()
        for path in self._paths():
            data = path.read_bytes()
            records = [record for record, _ in read_lines(data, str(path))]
            if records:
                yield Segment(path, records[0], frozenset(r.principal.group for r in records), data)

    def forget(self, segment: Segment) -> None:
        """Remove a segment that lies where it belongs. Its last line stays known."""
        if (last := _last_line(segment.data)) >= (self.seq, self.previous):  # of the older ones nobody needs it
            _write(self.folder / "head.json", {"seq": last[0], "sha256": last[1]})
        segment.path.unlink()
        for mark in self.folder.glob(f"{segment.path.stem}.*"):
            mark.unlink()

    def close(self) -> None:
        """Let go of it."""
        if self._lock >= 0:
            self.close_segment()
            os.close(self._lock)
            self._lock = -1

    def __del__(self) -> None:
        with suppress(OSError):
            self.close()

    def abandon(self) -> None:
        """In a child after a fork: the parent has it still."""
        for descriptor in (self._file, self._lock):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self._file, self._lock = None, -1


def _last_line(data: bytes) -> tuple[int, str]:
    line = data[:-1].rpartition(b"\n")[2]
    return int(json.loads(line)["seq"]), line_hash(line)


def _drop_torn_line(path: Path) -> None:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole == len(data):
        return
    with path.open("r+b") as file:
        file.truncate(whole)
        os.fsync(file.fileno())


def take(root: Path, destinations: Destinations) -> Slot:
    """A writer nobody else has whose lines go to exactly these buckets; a new one when there is none."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in _writers(root):
        if read_destinations(folder) == dict(destinations) and (slot := try_take(folder)) is not None:
            return slot
    host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")[:40] or "host"
    making = root / f".{uuid.uuid4().hex}"
    making.mkdir(mode=0o700)
    _write(making / "sites.json", {site: list(where) for site, where in destinations.items()})
    (making / "lock").touch(mode=0o600)
    folder = root / f"{host}-{uuid.uuid4().hex[:8]}"
    making.rename(folder)
    _sync_folder(root)
    slot = try_take(folder)
    return slot if slot is not None else take(root, destinations)  # somebody was faster: another one


def left_behind(root: Path, destinations: Destinations) -> Iterator[tuple[Slot, Destinations]]:
    """Writers nobody has that still have lines for one of these buckets, each with those; close each one."""
    for folder in _writers(root):
        if not any(folder.glob("*.jsonl")):
            continue
        same = {s: where for s, where in read_destinations(folder).items() if destinations.get(s) == where}
        if same and (slot := try_take(folder)) is not None:
            yield slot, same


def try_take(folder: Path) -> Slot | None:
    """A writer, unless another process has it, or its files were spoilt: then it is left as it lies, for people."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Slot(folder, lock)
    except BlockingIOError:
        os.close(lock)
        return None
    except (ValueError, LookupError) as error:
        os.close(lock)
        log.error("decisions in %s cannot be read, and are not shipped: %s", folder, error)
        return None
    except BaseException:
        os.close(lock)
        raise


def read_destinations(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Which buckets a writer's lines go to; none when that cannot be read."""
    try:
        found = json.loads((folder / "sites.json").read_bytes())
        return {str(site): (str(one[0]), str(one[1]), str(one[2])) for site, one in found.items()}
    except (OSError, ValueError, LookupError, AttributeError):
        return {}


def _writers(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("[a-z0-9]*") if path.is_dir())


def _write(path: Path, document: object) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with temporary.open("wb") as file:
        file.write(json.dumps(document, sort_keys=True).encode())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
