"""Where a backup is restored to: a folder of this machine, or a site's live layout as a published snapshot."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import CREATE, ObjectStore
from holdfast.engine.snapshot.digest import hash_stream
from holdfast.engine.vault.tree import TreeRow
from holdfast.errors import Refused

_PIECE_BYTES = 4 * 1024 * 1024


@dataclass
class FolderTarget:
    """A folder. Nothing in it is overwritten with other content, and no symbolic link in it is followed.

    Args:
        folder: its root; made where there is none.
        overwrite: replace files whose content differs.
    """

    folder: Path
    overwrite: bool = False
    folds_case: bool = True
    #: The folder of the last object, by its path: the next is likely to belong there as well.
    _last: tuple[str, _OpenFolder] | None = field(default=None, repr=False)

    def has(self, row: TreeRow) -> bool:
        path = f"{self.folder}/{row.path}"
        try:
            there = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not stat.S_ISREG(there.st_mode):
            return False
        if there.st_size == row.size_bytes and _digest(path) == row.digest:
            return True
        if not self.overwrite:
            raise Refused(
                "a file with other content is there",
                where=path,
                expected=row.digest,
                found=f"{there.st_size} bytes of something else",
                fix="Restore into an empty folder, or say `--overwrite`",
            )
        return False

    def write(self, row: TreeRow, pieces: Iterator[bytes]) -> None:
        folder, _, name = row.path.rpartition("/")
        if self._last is None or self._last[0] != folder:
            self._last = folder, _OpenFolder(self._opened(folder))
        parent = self._last[1].descriptor
        draft = f".{name[:200]}.{os.urandom(4).hex()}.part"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
        try:
            try:
                for piece in pieces:
                    _write_all(descriptor, piece)
                os.fchmod(descriptor, (row.mode if row.mode is not None else 0o644) & 0o777)
                if row.modified_at is not None:
                    moment = round(row.modified_at.timestamp() * 1_000_000) * 1000
                    os.utime(descriptor, ns=(moment, moment))
            finally:
                os.close(descriptor)
            os.replace(draft, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            os.unlink(draft, dir_fd=parent)
            raise

    def finish(self) -> None:
        self._last = None

    def _opened(self, path: str) -> int:
        """A folder below the root, opened without following a link, and made where it is not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in path.split("/") if path else ():
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=opened)
                try:
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    below = os.open(part, flags, dir_fd=opened)
                except OSError as error:
                    raise Refused(
                        "something that is no folder stands in the way",
                        where=str(self.folder / path),
                        expected="folders, and no symbolic links, below the target",
                        found=f"{part}: {error.strerror}",
                        fix="Restore into an empty folder",
                    ) from None
                os.close(opened)
                opened = below
        except BaseException:
            os.close(opened)
            raise
        return opened


class _OpenFolder:
    """A folder's descriptor, closed when nobody has it any more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _digest(path: str) -> str:
    with Path(path).open("rb", buffering=0) as stream:
        return hash_stream(iter(lambda: stream.read(_PIECE_BYTES), b"")).digest


@dataclass
class PrefixTarget:
    """Keys below a prefix of a store, written create-only.

    Args:
        store: of the site.
        prefix: with its final slash.
    """

    store: ObjectStore
    prefix: str
    folds_case: bool = False

    def has(self, row: TreeRow) -> bool:
        key = self.prefix + row.path
        try:
            info = self.store.head(key)
        except ObjectNotFound:
            return False
        digest = hash_stream(self.store.open(key)).digest if info.size_bytes == row.size_bytes else None
        if digest != row.digest:
            raise Refused(
                "an object with other content is there",
                where=f"{self.store.name}: {key}",
                expected=row.digest,
                found=digest or f"{info.size_bytes} bytes",
                fix="Restore to another prefix or site; nothing that is there is overwritten",
            )
        return True

    def write(self, row: TreeRow, pieces: Iterator[bytes]) -> None:
        key = self.prefix + row.path
        streamed = self.store.capabilities().create_only_streamed
        self.store.put(key, pieces if streamed and row.size_bytes > _PIECE_BYTES else b"".join(pieces), mode=CREATE)

    def finish(self) -> None:
        return None
