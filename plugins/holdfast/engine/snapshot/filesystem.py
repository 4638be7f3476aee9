"""A snapshot as a read-only fsspec file system: what pandas, pyarrow, Dask or DuckDB read from."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING, Any

from holdfast.engine.snapshot.errors import NotInSnapshot, SnapshotIsReadOnly
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.engine.snapshot.opened import OpenSnapshot

#: Up to here an object is read whole and checked by digest, whatever range of it is wanted.
WHOLE_BYTES = 8 * 1024 * 1024
PROTOCOL = "holdfast"


class SnapshotFiles:
    """The folders and files of an open snapshot, without fsspec."""

    def __init__(self, opened: OpenSnapshot, *, verify: bool) -> None:
        self.opened, self._verify = opened, verify
        listing = opened.listing()
        self._files: dict[str, dict[str, Any]] = {}
        self._folders: dict[str, set[str]] = {"": set()}
        for row in listing.to_pylist():
            path = row["path"]
            self._files[path] = {
                "name": path,
                "size": row["size_bytes"],
                "type": "file",
                "digest": row["digest"],
                "mtime": row["modified_at"],
                "key": row["key"],
            }
            self._add(path)

    def _add(self, path: str) -> None:
        while path:
            parent = path.rpartition("/")[0]
            children = self._folders.setdefault(parent, set())
            if path in children:
                return
            children.add(path)
            path = parent

    def info(self, path: str) -> dict[str, Any]:
        """fsspec's info of a file or folder. Raises FileNotFoundError."""
        if path in self._files:
            return dict(self._files[path])
        if path in self._folders:
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str) -> list[dict[str, Any]]:
        """The infos right under a folder, or of a file. Raises FileNotFoundError."""
        if path not in self._folders:
            return [self.info(path)]
        found = []
        for child in sorted(self._folders[path]):
            if child in self._files:
                found.append(dict(self._files[child]))
            if child in self._folders:  # a key may be a folder of another
                found.append({"name": child, "size": 0, "type": "directory"})
        return found

    def read(self, path: str) -> bytes:
        """A whole file, checked by digest."""
        try:
            return self.opened.read(path)
        except NotInSnapshot:
            raise FileNotFoundError(path) from None

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """A range of a file; of a small file, or of any with ``verify``, from bytes that were checked."""
        size = self.info(path)["size"]
        if size <= WHOLE_BYTES or (start == 0 and end >= size):
            return self.read(path)[start:end]
        if self._verify:
            self.opened.check(path)
        return self.opened.read_range(path, start, end)


def snapshot_filesystem(opened: OpenSnapshot, *, verify: bool = False) -> Any:
    """The fsspec file system of an open snapshot. Raises ConfigError when fsspec is not installed."""
    return _class()(SnapshotFiles(opened, verify=verify))


@cache
def _class() -> Any:  # noqa: C901 – a class of many small methods, whose base may not be installed
    """The file system's class; made when first wanted, because fsspec is an extra and slow to import."""
    try:
        from fsspec.spec import (  # type: ignore[import-untyped,unused-ignore]
            AbstractBufferedFile,
            AbstractFileSystem,
        )
    except ImportError:
        raise ConfigError(
            "fsspec is not installed",
            where="OpenSnapshot.filesystem",
            expected="fsspec, which comes with holdfast[airflow]",
            found="no module of that name",
            fix="pip install 'holdfast[airflow]' or fsspec alone; `read` and `read_range` need neither",
        ) from None

    class SnapshotFile(AbstractBufferedFile):  # type: ignore[misc,unused-ignore]
        """A big file: fsspec asks for ranges and keeps them."""

        def _fetch_range(self, start: int, end: int) -> bytes:
            return bytes(self.fs.files.read_range(self.path, start, end))

    class SnapshotFileSystem(AbstractFileSystem):  # type: ignore[misc,unused-ignore]
        """One snapshot, read-only. Reads are checked or pinned as `OpenSnapshot.filesystem` says."""

        protocol = PROTOCOL
        cachable = False
        root_marker = ""

        def __init__(self, files: SnapshotFiles) -> None:
            super().__init__(use_listings_cache=False)
            self.files = files

        def __reduce__(self) -> Any:
            raise self._refuse("be sent to another process", "Open the snapshot there")

        @classmethod
        def _strip_protocol(cls, path: Any) -> Any:
            stripped = super()._strip_protocol(path)
            return [name.strip("/") for name in stripped] if isinstance(stripped, list) else stripped.strip("/")

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            return self.files.info(self._strip_protocol(path))

        def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
            found = self.files.ls(self._strip_protocol(path))
            return found if detail else [info["name"] for info in found]

        def modified(self, path: str) -> Any:
            return self.info(path).get("mtime")

        def ukey(self, path: str) -> str:
            info = self.info(path)
            return str(info.get("digest") or info["name"])

        def checksum(self, path: str) -> int:
            return hash(self.ukey(path))

        def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
            name = self._strip_protocol(path)
            size = self.info(name)["size"]
            first, last, _step = slice(start, end).indices(size)
            return self.files.read_range(name, first, last)

        def _open(self, path: str, mode: str = "rb", block_size: Any = None, **options: Any) -> Any:
            if mode != "rb":
                raise self._refuse(f"be opened with mode {mode}")
            info = self.info(path)
            if info["type"] != "file":
                raise IsADirectoryError(path)
            if info["size"] <= WHOLE_BYTES:
                return io.BytesIO(self.files.read(info["name"]))
            options.pop("cache_options", None)
            return SnapshotFile(
                self, info["name"], mode, block_size or "default", size=info["size"], cache_type="readahead"
            )

        def _refuse(self, what: str, fix: str = "Write to the dataset's folder and publish") -> SnapshotIsReadOnly:
            record = self.files.opened.record
            return SnapshotIsReadOnly(
                f"a snapshot cannot {what}", where=f"{record.dataset} {record.snapshot_id}", fix=fix
            )

        def _read_only(self, *_: Any, **__: Any) -> Any:
            raise self._refuse("be written to")

        mkdir = makedirs = rmdir = rm = rm_file = _rm = touch = cp_file = copy = mv = move = _read_only
        pipe = pipe_file = put = put_file = _read_only

    return SnapshotFileSystem
