"""Parts of objects in a local folder: files in a hidden folder beside, joined, and linked to their name.

The folder ``.holdfast-uploads`` lies in the store's root and holds one folder per upload. Its files end with ``#1``,
a name the store neither lists nor lets anybody use, so nothing of an upload is visible under a key.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.engine.objectstore._translate import Call, bucket_not_found
from holdfast.engine.objectstore.checksums import Checksums
from holdfast.engine.objectstore.errors import NotSupported, ObjectExists, ObjectStoreError
from holdfast.engine.objectstore.interface import OVERWRITE, Create, ObjectVersion, PutMode
from holdfast.engine.objectstore.parts._base import (
    StoreParts,
    at_microseconds,
    check_begin,
    check_mode,
    check_part,
    check_whole,
    corrupted,
    microseconds,
    refuse_wrong_bytes,
    upload_gone,
)
from holdfast.engine.objectstore.parts.interface import PartData, PartLimits, Upload, UploadedPart

if TYPE_CHECKING:
    from holdfast.engine.objectstore._obstore import ObstoreStore
    from holdfast.engine.objectstore.attributes import Attributes

FOLDER = ".holdfast-uploads"
#: The ending the store hides.
_HIDDEN = "#1"
_ABOUT = f"about.json{_HIDDEN}"
_WHOLE = f"whole{_HIDDEN}"
_COPY_BYTES = 4 * 1024 * 1024


class LocalParts(StoreParts):
    """Parts in files.

    Args:
        store: the store.
        root: its folder.
        now: the wall clock, timezone-aware.
    """

    limits = PartLimits(smallest_bytes=1, largest_bytes=1 << 40, most_parts=None, in_order=False)

    def __init__(
        self, store: ObstoreStore, root: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        super().__init__(store)
        self._root = root
        self._folder = root / FOLDER
        self._now = now

    def begin(
        self,
        key: str,
        *,
        size_bytes: int,
        content_type: str | None = None,  # noqa: ARG002 - a folder keeps none, as with `put`
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
        mode: PutMode = OVERWRITE,
        part_bytes: int | None = None,
    ) -> Upload:
        call = self._call("begin", key, writes=True)
        check_begin(size_bytes, mode, call, self.limits, part_bytes)
        self._store.path_of(key)
        if metadata or (attributes is not None and (attributes.headers() or attributes.tags or attributes.metadata)):
            raise NotSupported("this backend keeps no attributes and no metadata", where=call.where)
        if not self._root.is_dir():
            raise bucket_not_found(call, str(self._root))
        # Asked in any mode: the store knows which names it does not take.
        if self._is_there(key) and isinstance(mode, Create):
            raise ObjectExists("an object of this key is there already", where=call.where)
        began = microseconds(self._now())
        upload = Upload(key, f"{began}-{uuid.uuid4().hex}", at_microseconds(began))
        folder = self._folder / upload.upload_id
        with _files(call):
            self._make(folder)
            (folder / _ABOUT).write_text(json.dumps({"key": self._store.path_of(key)}))
        return upload

    def put_part(self, upload: Upload, number: int, data: PartData, *, checksums: Checksums) -> UploadedPart:
        call = self._call("put_part", upload.key, writes=True)
        size_bytes = check_part(number, data, checksums, self.limits)
        folder = self._find(upload, call)
        refuse_wrong_bytes(data, checksums, call, number)
        crc64nvme, crc32c = (
            "-" if value is None else f"{value:x}" for value in (checksums.crc64nvme, checksums.crc32c)
        )
        temporary = folder / f"{uuid.uuid4().hex}{_HIDDEN}"
        with _files(call):
            with temporary.open("wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
            temporary.replace(folder / f"{number:06d}{_HIDDEN}")
            (folder / f"{number:06d}.crc{_HIDDEN}").write_text(f"{crc64nvme} {crc32c} {size_bytes}")
        return UploadedPart(number, size_bytes, f"{number}", checksums.crc64nvme, checksums.crc32c)

    def parts(self, upload: Upload) -> list[UploadedPart]:
        call = self._call("parts", upload.key)
        folder = self._find(upload, call)
        found = []
        with _files(call):
            for path in sorted(folder.glob(f"??????{_HIDDEN}")):
                number = int(path.name.removesuffix(_HIDDEN))
                size_bytes = path.stat().st_size
                crc64nvme, crc32c = _sums(folder / f"{number:06d}.crc{_HIDDEN}", size_bytes)
                found.append(UploadedPart(number, size_bytes, f"{number}", crc64nvme, crc32c))
        return found

    def complete(
        self,
        upload: Upload,
        parts: Sequence[UploadedPart],
        *,
        size_bytes: int,
        checksums: Checksums,
        mode: PutMode = OVERWRITE,
    ) -> ObjectVersion:
        call = self._call("complete", upload.key, writes=True)
        check_mode(mode, call)
        ordered = check_whole(parts, size_bytes, checksums)
        folder = self._folder / _plain(upload.upload_id)
        if not folder.is_dir():
            return self._settled(upload, size_bytes=size_bytes, checksums=checksums, mode=mode)
        whole = folder / f"{uuid.uuid4().hex}-{_WHOLE}"
        target = self._root / self._store.path_of(upload.key)
        try:
            with _files(call):
                joined_bytes = _join(whole, [folder / f"{part.number:06d}{_HIDDEN}" for part in ordered])
                if joined_bytes != size_bytes:
                    raise upload_gone(call, f"parts of {joined_bytes} bytes instead of {size_bytes}")
                self._check_whole(whole, checksums, call)
                _make_folder(target.parent, call)
                if isinstance(mode, Create):
                    os.link(whole, target)
                else:
                    whole.replace(target)
        except _Missing:
            raise upload_gone(call, "a part is missing") from None
        except FileExistsError:
            version = self._settled(
                upload,
                size_bytes=size_bytes,
                checksums=checksums,
                mode=mode,
                refusal=ObjectExists("an object of this key is there already", where=call.where),
            )
        else:
            version = self._store.head(upload.key).version
        finally:
            whole.unlink(missing_ok=True)
        self.abort(upload)
        return version

    def abort(self, upload: Upload) -> None:
        shutil.rmtree(self._folder / _plain(upload.upload_id), ignore_errors=True)
        with suppress(OSError):  # others' uploads are in it, or it is gone
            self._folder.rmdir()

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        wanted = self._store.prefix + prefix
        for folder in sorted(self._folder.glob("*")):
            try:
                key = str(json.loads((folder / _ABOUT).read_text())["key"])
                began = int(folder.name.partition("-")[0])
            except (OSError, ValueError, KeyError):
                continue  # somebody is beginning or aborting it
            if key.startswith(wanted):
                yield Upload(key[len(self._store.prefix) :], folder.name, at_microseconds(began))

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True)
        except FileNotFoundError:  # the last upload ended just now, and the folder of all uploads with it
            folder.mkdir(parents=True)

    def _find(self, upload: Upload, call: Call) -> Path:
        folder = self._folder / _plain(upload.upload_id)
        try:
            about = json.loads((folder / _ABOUT).read_text())
        except (OSError, ValueError):
            raise upload_gone(call) from None
        if about.get("key") != self._store.path_of(upload.key):
            raise upload_gone(call)
        return folder

    def _check_whole(self, whole: Path, checksums: Checksums, call: Call) -> None:
        """Nobody else will: what is linked to the key is what was asked for."""
        import mmap

        with whole.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = memoryview(mapped)
            try:
                found = Checksums.of(
                    view, with_crc64nvme=checksums.crc64nvme is not None, with_crc32c=checksums.crc32c is not None
                )
            finally:
                view.release()
        if (difference := found.contradicts(checksums)) is not None:
            raise corrupted(call, difference)


class _Missing(Exception):
    """A part's file is not there."""


@contextmanager
def _files(call: Call) -> Iterator[None]:
    """Tells a failing file system in the words of this package; an existing target is the caller's to tell."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise ObjectStoreError(
            "the folder cannot be written",
            where=call.where,
            found=f"{type(error).__name__}: {error.strerror}",
            fix="Check its space and its rights",
        ) from None


def _make_folder(folder: Path, call: Call) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ObjectStoreError(
            "an object stands where this key needs a folder",
            where=call.where,
            fix="Choose another key, or another site",
        ) from None


def _plain(upload_id: str) -> str:
    """The id as the name of one folder, whatever it was given as."""
    return upload_id if upload_id.replace("-", "").isalnum() else "none"


def _join(whole: Path, parts: Sequence[Path]) -> int:
    """Copy the files one behind the other; returns how many bytes that are."""
    with whole.open("wb") as out:
        for path in parts:
            try:
                source = path.open("rb")
            except FileNotFoundError:
                raise _Missing from None
            with source:
                shutil.copyfileobj(source, out, _COPY_BYTES)
        return out.tell()


def _sums(path: Path, size_bytes: int) -> tuple[int | None, int | None]:
    """The checksums noted beside a part; none when they are of another one."""
    try:
        crc64nvme, crc32c, noted = path.read_text().split()
    except (OSError, ValueError):
        return None, None
    if noted != str(size_bytes):
        return None, None
    return None if crc64nvme == "-" else int(crc64nvme, 16), None if crc32c == "-" else int(crc32c, 16)
