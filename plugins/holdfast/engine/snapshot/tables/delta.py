"""Delta Lake's transaction log, as its protocol specifies it (delta-io/delta, PROTOCOL.md): JSON commits, Parquet and
V2 checkpoints with sidecars, deletion vectors."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.engine.snapshot.tables.state import TableDamaged, TableState

LOG = "_delta_log"
POINTER = "_last_checkpoint"
_COMMIT = re.compile(r"^(\d{20})\.json$")
_CHECKPOINT = re.compile(r"^(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10})|\.[0-9a-f-]{36})?\.(parquet|json)$")
_COMPACTED = re.compile(r"^(\d{20})\.(\d{20})\.compacted\.json$")
_ANY = re.compile(r"^(\d{20})\.")
_ABSOLUTE = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*:|^/")
#: Z85, the alphabet of ZeroMQ RFC 32, in which a deletion vector's name is written.
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"

#: What is active: (path, deletion vector's id) → the files it needs.
_Active = dict[tuple[str, str], tuple[str, ...]]


def roots(paths: Iterable[str]) -> list[str]:
    """The folders that hold a ``_delta_log`` with a commit or checkpoint."""
    found = set()
    for path in paths:
        folder, _, name = path.rpartition("/")
        if (folder == LOG or folder.endswith(f"/{LOG}")) and _ANY.match(name):
            found.add(folder[: -len(LOG)].rstrip("/"))
    return sorted(found)


def order(paths: list[str]) -> list[list[str]]:
    """Data and sidecars; then per version its commit, its checkpoint; then the pointers."""
    data, pointers = [], []
    versions: dict[tuple[int, int], list[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder != LOG and not folder.endswith(f"/{LOG}"):
            data.append(path)
        elif name == POINTER:
            pointers.append(path)
        elif match := _ANY.match(name):
            compacted = _COMPACTED.match(name)
            number = int(compacted[2] if compacted else match[1])
            versions.setdefault((number, 0 if _COMMIT.match(name) else 1), []).append(path)
        else:
            data.append(path)
    groups = [data, *(versions[key] for key in sorted(versions)), pointers]
    return [group for group in groups if group]


def state(root: str, there: frozenset[str], read: Callable[[str], bytes], version: int | None = None) -> TableState:
    """The newest whole version of the table at a root, or this one. Raises TableDamaged."""
    table = _Table(root, there, read)
    return table.newest_whole() if version is None else table.at(version)


@dataclass
class _Log:
    """The names in a log folder by version."""

    commits: dict[int, str] = field(default_factory=dict)
    #: version → the files of one whole checkpoint.
    checkpoints: dict[int, list[str]] = field(default_factory=dict)
    by_version: dict[int, list[str]] = field(default_factory=dict)


class _Table:
    def __init__(self, root: str, there: frozenset[str], read: Callable[[str], bytes]) -> None:
        self._root, self._there, self._read = root, there, read
        self._prefix = f"{root}/" if root else ""
        self._folder = f"{self._prefix}{LOG}/"
        self._log = self._list()
        self._absolute: set[str] = set()
        self._vectors = 0

    def newest_whole(self) -> TableState:
        newest = max([*self._log.commits, *self._log.checkpoints], default=-1)
        first_missing: tuple[str, ...] = ()
        version = newest
        for version, active, gap in self._versions_down(newest):
            needed = {name for files in active.values() for name in files}
            missing = tuple(sorted(needed - self._there)) if not gap else (gap,)
            if not missing:
                return self._state(version, newest, frozenset(needed), first_missing)
            first_missing = first_missing or missing
        raise TableDamaged(
            "no version of the Delta table is whole",
            where=self._root or "the dataset's root",
            expected="every file that some version's log names",
            found=f"{first_missing[0] if first_missing else 'no commit'} missing",
            fix="Restore the table at its origin; a copy of it would be torn",
        )

    def at(self, wanted: int) -> TableState:
        """A version that is whole. Raises TableDamaged."""
        newest = max([*self._log.commits, *self._log.checkpoints], default=-1)
        found = next(self._versions_down(wanted), None) if 0 <= wanted <= newest else None
        if found is None or found[2]:
            raise self._not_there(wanted, newest, found[2] if found is not None else "")
        needed = frozenset(name for files in found[1].values() for name in files)
        if missing := sorted(needed - self._there):
            raise self._not_there(wanted, newest, missing[0])
        return self._state(wanted, newest, needed, ())

    def _not_there(self, version: int, newest: int, missing: str) -> TableDamaged:
        return TableDamaged(
            "the Delta table does not have this version whole",
            where=self._root or "the dataset's root",
            expected=f"every file of version {version}",
            found=f"{missing} missing" if missing else f"versions up to {newest}",
            fix="Choose another version: data of older ones may have been removed by a vacuum",
        )

    def _state(self, version: int, newest: int, data: frozenset[str], missing: tuple[str, ...]) -> TableState:
        log = {name: number for number, names in self._log.by_version.items() for name in names}
        torn = {name for name, number in log.items() if number > version}
        pointer = self._folder + POINTER
        if pointer in self._there and self._pointed() > version:
            torn.add(pointer)
        return TableState(
            format="delta",
            root=self._root,
            version=version,
            data=data,
            metadata=frozenset(log) - torn,
            pointers=frozenset({pointer} & self._there) - torn,
            torn=frozenset(torn),
            missing=missing,
            torn_version=None if version == newest else newest,
            absolute=tuple(sorted(self._absolute)[:5]),
            row_deletes=self._vectors,
        )

    def _pointed(self) -> int:
        try:
            return int(json.loads(self._read(self._folder + POINTER)).get("version", -1))
        except (ValueError, TypeError, AttributeError):
            return -1

    def _versions_down(self, newest: int) -> Iterator[tuple[int, _Active, str]]:
        """Version, what is active in it, and the log file it cannot be read without; newest first."""
        for version in range(newest, -1, -1):
            start = max((number for number in self._log.checkpoints if number <= version), default=-1)
            if start < 0 and version < min(self._log.commits, default=0):
                return
            self._absolute, self._vectors = set(), 0
            active: _Active = {}
            gap = next((n for n in range(start + 1, version + 1) if n not in self._log.commits), None)
            if gap is not None:
                yield version, active, f"{self._folder}{gap:020d}.json"
                continue
            try:
                if start >= 0:
                    self._apply(active, self._checkpoint(start))
                for number in range(start + 1, version + 1):
                    self._apply(active, _lines(self._read(self._log.commits[number])))
            except _Unreadable as damaged:
                yield version, active, str(damaged)
                continue
            self._vectors = sum(1 for _, vector in active if vector)
            yield version, active, ""

    def _list(self) -> _Log:
        log = _Log()
        parts: dict[tuple[int, int], list[str]] = {}
        for path in sorted(self._there):
            name = path.removeprefix(self._folder)
            if not path.startswith(self._folder) or "/" in name:
                continue
            if match := _COMMIT.match(name):
                log.commits[int(match[1])] = path
            elif match := _CHECKPOINT.match(name):
                number, total = int(match[1]), int(match[3] or 1)
                parts.setdefault((number, total), []).append(path)
            if match := _ANY.match(name):
                compacted = _COMPACTED.match(name)
                log.by_version.setdefault(int(compacted[2] if compacted else match[1]), []).append(path)
        for (number, total), names in parts.items():
            if total == 1:
                log.checkpoints[number] = names[-1:]
            elif len(names) == total:
                log.checkpoints.setdefault(number, names)
        return log

    def _checkpoint(self, number: int) -> Iterator[dict[str, Any]]:
        for path in self._log.checkpoints[number]:
            for action in self._actions(path):
                yield action
                sidecar = (action.get("sidecar") or {}).get("path")
                if sidecar:
                    name = f"{self._folder}_sidecars/{sidecar}"
                    if name not in self._there:
                        raise _Unreadable(name)
                    yield from self._actions(name)

    def _actions(self, path: str) -> Iterator[dict[str, Any]]:
        data = self._read(path)
        if path.endswith(".json"):
            yield from _lines(data)
            return
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
            wanted = [name for name in ("add", "remove", "sidecar") if name in file.schema_arrow.names]
            columns = [f"{name}.{leaf}" for name in wanted for leaf in ("path", "deletionVector")]
            for batch in file.iter_batches(columns=columns):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise TableDamaged(
                "a checkpoint of the Delta table cannot be read", where=path, found=str(error).splitlines()[0]
            ) from None

    def _apply(self, active: _Active, actions: Iterable[dict[str, Any]]) -> None:
        removed, added = [], []
        for action in actions:
            if (remove := action.get("remove")) and remove.get("path"):
                removed.append(_identity(remove))
            if (add := action.get("add")) and add.get("path"):
                added.append((_identity(add), self._files(add)))
        # The order within a commit means nothing: a rewrite of a deletion vector removes and adds one path.
        for identity in removed:
            active.pop(identity, None)
        active.update(added)

    def _files(self, add: dict[str, Any]) -> tuple[str, ...]:
        names = [self._relative(unquote(add["path"]))]
        vector = add.get("deletionVector") or {}
        if vector.get("storageType") == "u":
            names.append(self._prefix + _vector_file(vector["pathOrInlineDv"]))
        elif vector.get("storageType") == "p":
            names.append(self._relative(vector["pathOrInlineDv"]))
        return tuple(name for name in names if name)

    def _relative(self, path: str) -> str:
        if not _ABSOLUTE.match(path):
            return self._prefix + path
        self._absolute.add(path)
        return ""


class _Unreadable(Exception):
    """A log file that is not there; its message is the path."""


def _identity(action: dict[str, Any]) -> tuple[str, str]:
    vector = action.get("deletionVector") or {}
    name = vector.get("pathOrInlineDv")
    return unquote(action["path"]), "" if not name else f"{vector.get('storageType')}{name}@{vector.get('offset')}"


def _lines(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise TableDamaged(
                    "a commit of the Delta table cannot be read", expected="a JSON object per line", found=str(error)
                ) from None


def _vector_file(name: str) -> str:
    """The file of a deletion vector: its UUID is the last 20 characters, Z85; what is before them is a folder."""
    folder, code = name[:-20], name[-20:]
    raw = b""
    for start in range(0, 20, 5):
        value = 0
        for character in code[start : start + 5]:
            value = value * 85 + _Z85.index(character)
        raw += value.to_bytes(4, "big")
    return f"{folder}/deletion_vector_{uuid.UUID(bytes=raw)}.bin".lstrip("/")
