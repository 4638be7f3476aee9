"""Where a backup is restored to: a folder of this machine, or keys of a bucket. See also `published`."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from holdfast.engine.objectstore.errors import ObjectExists
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.digest import hash_stream
from holdfast.engine.vault.creating import digest_at, write_object
from holdfast.engine.vault.errors import TargetDamaged, TargetFailed
from holdfast.engine.vault.tree import TreeRow
from holdfast.errors import ConfigError, Refused

_PIECE_BYTES = 4 * 1024 * 1024


@dataclass
class FolderTarget:
    """A folder. Nothing in it is overwritten with other content, and no symbolic link in it is followed.

    Args:
        folder: its root; made where there is none.
        overwrite: replace files whose content differs.
        before_named: given each complete file, at its path of a draft; it may change it.
    """

    folder: Path
    overwrite: bool = False
    folds_case: bool = True
    before_named: Callable[[Path], object] | None = None
    #: The folder of the last object, by its path: the next is likely to belong there as well.
    _last: tuple[str, _OpenFolder] | None = field(default=None, repr=False)
    #: The last that was not there.
    _absent: str | None = field(default=None, repr=False)

    @property
    def location(self) -> str:
        """The folder as a URI that table formats write."""
        return f"file://{self.folder.absolute()}"

    def has(self, row: TreeRow) -> bool:
        where = f"{self.folder}/{row.path}"
        folder, _, name = row.path.rpartition("/")
        with _Telling(where):
            parent = self._parent(folder, make=False)
            if parent is None:
                return False
            try:
                there = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return False
            if stat.S_ISDIR(there.st_mode):
                raise Refused(
                    "a folder is where a file belongs",
                    where=where,
                    expected=f"nothing, or a file with {row.digest}",
                    found="a folder",
                    fix="Move it away, or restore into an empty folder",
                )
            regular = stat.S_ISREG(there.st_mode)
            if regular and there.st_size == row.size_bytes and _digest(name, parent) == row.digest:
                return True
        if not self.overwrite:
            raise Refused(
                "a file with other content is there" if regular else "something that is no file is there",
                where=where,
                expected=row.digest,
                found=f"{there.st_size} bytes of something else" if regular else _kind(there),
                fix="Restore into an empty folder, or say `--overwrite`",
            )
        return False

    def write(self, row: TreeRow, pieces: Iterator[bytes]) -> None:
        where = f"{self.folder}/{row.path}"
        folder, _, name = row.path.rpartition("/")
        # The same name each time: what a restore that was killed left behind is replaced by the one that goes on.
        draft = f".{hashlib.sha256(name.encode()).hexdigest()[:32]}.holdfast-part"
        with _Telling(where):
            parent = self._parent(folder, make=True)
            assert parent is not None
            descriptor = _new_draft(draft, parent, where)
        try:
            for piece in pieces:
                with _Telling(where):
                    _write_all(descriptor, piece)
            if self.before_named is not None:
                self.before_named(self.folder / folder / draft)
            with _Telling(where):
                _describe(descriptor, row)
                if not _is_still(draft, parent, descriptor):
                    raise _another_restore(where)
                # Whoever restores this file holds its draft, so nobody else puts one there between these two.
                if self.has(row):
                    os.unlink(draft, dir_fd=parent)
                else:
                    os.replace(draft, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with suppress(OSError):
                if _is_still(draft, parent, descriptor):
                    os.unlink(draft, dir_fd=parent)
            raise
        finally:
            os.close(descriptor)

    def finish(self) -> None:
        self._last = self._absent = None

    def _parent(self, path: str, *, make: bool) -> int | None:
        """A folder below the root, opened; ``None``: it is not there, and not to be made."""
        if self._last is not None and self._last[0] == path:
            return self._last[1].descriptor
        if not make and self._absent == path:
            return None
        opened = self._opened(path, make=make)
        if opened is None:
            self._absent = path
            return None
        self._last, self._absent = (path, _OpenFolder(opened)), None
        return opened

    def _opened(self, path: str, *, make: bool) -> int | None:
        """A folder below the root, opened without following a link."""
        opened = self._root(make=make)
        if opened is None:
            return None
        try:
            for part in path.split("/") if path else ():
                try:
                    below = _folder_in(opened, part, make=make)
                except OSError as error:
                    if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                        raise
                    raise Refused(
                        "something that is no folder stands in the way",
                        where=str(self.folder / path),
                        expected="folders, and no symbolic links, below the target",
                        found=f"{part}: {error.strerror}",
                        fix="Move it away, or restore into an empty folder",
                    ) from None
                os.close(opened)
                if below is None:
                    return None
                opened = below
        except BaseException:
            os.close(opened)
            raise
        return opened

    def _root(self, *, make: bool) -> int | None:
        try:
            if make:
                self.folder.mkdir(parents=True, exist_ok=True)
            return os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if make:
                raise
            return None
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(
                "the target is no folder",
                where=str(self.folder),
                expected="a folder, or nothing yet",
                found=str(error.strerror),
                fix="Name another one; nothing was written",
            ) from None


_FIXES = {
    errno.ENOSPC: "Make room",
    errno.EDQUOT: "Make room",
    errno.EACCES: "Run it as somebody who may write there, or restore to another folder",
    errno.EPERM: "Run it as somebody who may write there, or restore to another folder",
    errno.EROFS: "Restore to another folder",
    errno.ENAMETOOLONG: "Restore to a file system that takes such names, or all but this with --path",
}


def _kind(there: os.stat_result) -> str:
    return "a symbolic link" if stat.S_ISLNK(there.st_mode) else "a pipe, a socket or a device"


class _Telling:
    """What the machine's file system refuses, as an error of ours."""

    __slots__ = ("_where",)

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, OSError):
            return
        fix = _FIXES.get(error.errno or 0, "Have the disk and the folder checked")
        raise TargetFailed(
            "it cannot be restored here",
            where=self._where,
            expected="a folder that can be read and written",
            found=f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror),
            fix=f"{fix}. Run again, it goes on: what is there and right is not fetched again",
        ) from None


def _folder_in(parent: int, name: str, *, make: bool) -> int | None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            return None
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=parent)
    return os.open(name, flags, dir_fd=parent)


class _OpenFolder:
    """A folder's descriptor, closed when nobody has it any more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def _new_draft(draft: str, parent: int, where: str) -> int:
    """A new file that nobody else writes; the lock on it ends with this process. Raises Refused."""
    try:
        try:
            descriptor = os.open(draft, _NEW, 0o600, dir_fd=parent)
        except FileExistsError:
            _remove_left(draft, parent)
            descriptor = os.open(draft, _NEW, 0o600, dir_fd=parent)
    except (BlockingIOError, FileExistsError):
        raise _another_restore(where) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise _another_restore(where) from None
    return descriptor


def _remove_left(draft: str, parent: int) -> None:
    """Remove what a restore that was killed left. Raises BlockingIOError: it still runs."""
    with suppress(FileNotFoundError):
        left = os.open(draft, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(draft, dir_fd=parent)
        finally:
            os.close(left)


def _is_still(draft: str, parent: int, descriptor: int) -> bool:
    """Whether what lies there is the file that was opened."""
    try:
        return os.stat(draft, dir_fd=parent, follow_symlinks=False).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _another_restore(where: str) -> Refused:
    return Refused(
        "another restore is writing this file",
        where=where,
        expected="one restore at a time into a folder",
        found="a file of another one, which still runs",
        fix="Wait for it, or restore into another folder",
    )


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _describe(descriptor: int, row: TreeRow) -> None:
    """Give a file its mode and its time."""
    os.fchmod(descriptor, (row.mode if row.mode is not None else 0o644) & 0o777)
    if row.modified_at is not None:
        moment = round(row.modified_at.timestamp() * 1_000_000) * 1000
        os.utime(descriptor, ns=(moment, moment))


def _digest(name: str, parent: int) -> str:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        return hash_stream(iter(lambda: os.read(descriptor, _PIECE_BYTES), b"")).digest
    finally:
        os.close(descriptor)


@dataclass
class PrefixTarget:
    """Keys below a prefix of a store, written create-only, whatever their size.

    What lies there is listed once, before the first object.

    Args:
        store: of the site.
        prefix: with its final slash.
        read_back: read every object that was written, and compare its digest.
        location: the prefix as a URI that table formats write, where it is known.
    """

    store: ObjectStore
    prefix: str
    read_back: bool = False
    location: str | None = None
    folds_case: bool = False

    @cached_property
    def _listed(self) -> dict[str, int]:
        return {info.key: info.size_bytes for info in self.store.list(self.prefix)}

    def has(self, row: TreeRow) -> bool:
        key = self.prefix + row.path
        size = self._listed.get(key)
        if size is None:
            return False
        self._require(row, digest_at(self.store, key) if size == row.size_bytes else f"{size} bytes")
        return True

    def write(self, row: TreeRow, pieces: Iterator[bytes]) -> None:
        key = self.prefix + row.path
        try:
            write_object(self.store, key, row.size_bytes, pieces)
        except ObjectExists:
            self._require(row, digest_at(self.store, key))  # by an earlier try of this very write, or by others
            return
        if self.read_back and (found := digest_at(self.store, key)) != row.digest:
            raise TargetDamaged(
                "bytes written here read back as other bytes",
                where=f"{self.store.name}: {key}",
                expected=row.digest,
                found=found or "nothing",
                fix="Have this store and the way to it checked, and restore to another prefix",
            )

    def finish(self) -> None:
        return None

    def _require(self, row: TreeRow, found: str | None) -> None:
        if found != row.digest:
            raise Refused(
                "an object with other content is there",
                where=f"{self.store.name}: {self.prefix}{row.path}",
                expected=row.digest,
                found=found or "nothing any more",
                fix="Restore to another prefix or site; nothing that is there is overwritten",
            )
