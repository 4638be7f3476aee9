"""Apache Iceberg's metadata, as its table spec has it (iceberg.apache.org/spec): metadata JSON, manifest lists and
manifests in Avro.

The folder of a table does not say which metadata file is current: a catalogue does. Here the newest by version number
counts, and by its own update time among equals. What a commit that failed left behind can so be taken for current;
it is whole all the same.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from holdfast.engine.snapshot.tables.state import TableDamaged, TableState
from holdfast.errors import ConfigError

FOLDER = "metadata"
POINTER = "version-hint.text"
#: In the name of every metadata file.
MARK = ".metadata.json"
_METADATA = re.compile(r"^(?:v(\d+)|(\d+)-[0-9a-fA-F-]{36})(?:\.gz)?\.metadata\.json(?:\.gz)?$")
_DELETED = 2
_DATA, _POSITION_DELETES = 0, 1


def roots(paths: Iterable[str]) -> list[str]:
    """The folders that hold a ``metadata`` folder with a metadata file."""
    return sorted({path.rpartition("/")[0][: -len(FOLDER)].rstrip("/") for path in paths if _number(path) is not None})


def order(paths: list[str]) -> list[list[str]]:
    """Data; manifests; manifest lists; metadata files by version; the pointers."""
    tables = roots(paths)
    data, manifests, lists, pointers = [], [], [], []
    versions: dict[int, list[str]] = {}
    for path in paths:
        name = path.rpartition("/")[2]
        number = _number(path)
        if number is not None:
            versions.setdefault(number, []).append(path)
        elif not any(path.startswith(f"{root}/{FOLDER}/".lstrip("/")) for root in tables):
            data.append(path)
        elif name == POINTER:
            pointers.append(path)
        elif name.startswith("snap-"):
            lists.append(path)
        elif name.endswith(".avro"):
            manifests.append(path)
        else:
            data.append(path)
    groups = [data, manifests, lists, *(versions[number] for number in sorted(versions)), pointers]
    return [group for group in groups if group]


def state(root: str, there: frozenset[str], read: Callable[[str], bytes], version: int | None = None) -> TableState:
    """The newest whole version of the table at a root, or that of this number. Raises TableDamaged."""
    prefix = f"{root}/" if root else ""
    folder = f"{prefix}{FOLDER}/"
    inside = [path for path in there if path.startswith(folder)]
    newest: int | None = None
    first_missing: tuple[str, ...] = ()
    torn: set[str] = set()
    candidates = _candidates(inside, read)
    for path, metadata in candidates:
        number = _number(path) or 0
        if version is not None and number != version:
            continue
        newest = number if newest is None else newest
        found = Files(prefix, metadata, there, read)
        missing = found.missing()
        if missing:
            first_missing = first_missing or missing
            torn.add(path)
            continue
        hint = folder + POINTER
        if hint in there and torn and hinted(read(hint)) > number:
            torn.add(hint)
        return TableState(
            format="iceberg",
            root=root,
            version=number,
            data=frozenset(found.data),
            metadata=frozenset(inside) - torn - {hint},
            pointers=frozenset({hint} & there) - torn,
            torn=frozenset(torn),
            missing=first_missing,
            torn_version=newest if torn else None,
            missing_history=found.missing_history(),
            absolute=tuple(sorted(found.absolute)[:5]),
            row_deletes=len(found.deletes),
        )
    raise TableDamaged(
        "no version of the Iceberg table is whole",
        where=root or "the dataset's root",
        expected="every file that some metadata file names",
        found=f"{first_missing[0] if first_missing else 'no metadata'} missing",
        fix="Restore the table at its origin; a copy of it would be torn",
    )


class Files:
    """The files one metadata file names, as paths in the dataset's folder."""

    def __init__(
        self, prefix: str, metadata: dict[str, Any], there: frozenset[str], read: Callable[[str], bytes]
    ) -> None:
        self._prefix, self._there, self._read = prefix, there, read
        self.location = str(metadata.get("location", "")).rstrip("/")
        #: Names that say where the table was written.
        self.absolute = {self.location} if self.location else set()
        self.outside: set[str] = set()
        self.data: set[str] = set()
        self.deletes: set[str] = set()
        self._history: set[str] = set()
        self._needed: set[str] = set()
        self._manifests: dict[str, list[tuple[str, bool]]] = {}
        current = _current(metadata)
        for snapshot in metadata.get("snapshots") or []:
            self._add_snapshot(snapshot, snapshot.get("snapshot-id") in current)

    def relative(self, uri: str) -> str | None:
        """A file's path in the dataset's folder, ``None`` when it lies outside the table."""
        if uri.startswith(self.location + "/"):
            return self._prefix + uri[len(self.location) + 1 :]
        self.outside.add(uri)
        return None

    def missing(self) -> tuple[str, ...]:
        """What the current version needs and is not there."""
        return tuple(sorted((self._needed - self._there) | self.outside))

    @property
    def needed(self) -> frozenset[str]:
        """All that a reader of the current version, or of one that has a name, asks for."""
        return frozenset(self._needed)

    def missing_history(self) -> tuple[str, ...]:
        return tuple(sorted(self._history - self._there))

    def _add_snapshot(self, snapshot: dict[str, Any], needed: bool) -> None:
        into = self._needed if needed else self._history
        uris = [snapshot["manifest-list"]] if snapshot.get("manifest-list") else list(snapshot.get("manifests") or [])
        if snapshot.get("manifest-list"):
            name = self.relative(snapshot["manifest-list"])
            if name is None:
                return
            into.add(name)
            uris = [row["manifest_path"] for row in self._rows(name)]
        for uri in uris:
            name = self.relative(uri)
            if name is None:
                continue
            into.add(name)
            for path, is_delete in self._entries(name):
                into.add(path)
                if needed:
                    self.data.add(path)
                    if is_delete:
                        self.deletes.add(path)

    def _entries(self, manifest: str) -> list[tuple[str, bool]]:
        if manifest not in self._manifests:
            found = []
            for row in self._rows(manifest):
                file = row["data_file"]
                path = self.relative(file["file_path"]) if row["status"] != _DELETED else None
                if path is not None:
                    found.append((path, file.get("content", _DATA) != _DATA))
            self._manifests[manifest] = found
        return self._manifests[manifest]

    def _rows(self, path: str) -> Iterator[dict[str, Any]]:
        if path in self._there:
            yield from read_avro(self._read(path), path)[0]


def read_avro(data: bytes, where: str) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, str]]:
    """The rows, the schema as written and the file's own metadata. Raises TableDamaged, ConfigError."""
    try:
        import fastavro  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise ConfigError(
            "fastavro is not installed",
            where="Iceberg manifests",
            expected="fastavro",
            found="no module of that name",
            fix="pip install 'holdfast[feeds]' or fastavro alone",
        ) from None
    try:
        reader = fastavro.reader(io.BytesIO(data))
        rows: list[Any] = list(reader)
        return rows, dict(reader.metadata), {"codec": str(reader.codec)}
    except (ValueError, EOFError, KeyError, IndexError) as error:
        raise TableDamaged("an Avro file of the Iceberg table cannot be read", where=where, found=str(error)) from None


def load_metadata(data: bytes, where: str) -> dict[str, Any]:
    """A metadata file, plain or gzipped. Raises TableDamaged."""
    try:
        return dict(json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data))
    except (ValueError, OSError, EOFError, TypeError) as error:
        raise TableDamaged(
            "a metadata file of the Iceberg table cannot be read", where=where, found=str(error)
        ) from None


def _candidates(inside: Iterable[str], read: Callable[[str], bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The metadata files, newest first; those of equal number by their own update time."""
    by_number: dict[int, list[str]] = {}
    for path in inside:
        number = _number(path)
        if number is not None:
            by_number.setdefault(number, []).append(path)
    for number in sorted(by_number, reverse=True):
        loaded = [(path, load_metadata(read(path), path)) for path in sorted(by_number[number])]
        yield from sorted(loaded, key=lambda item: -int(item[1].get("last-updated-ms", 0)))


def _number(path: str) -> int | None:
    folder, _, name = path.rpartition("/")
    if folder != FOLDER and not folder.endswith(f"/{FOLDER}"):
        return None
    match = _METADATA.match(name)
    return int(match[1] or match[2]) if match else None


def _current(metadata: dict[str, Any]) -> set[int]:
    """The snapshots a reader of this version may ask for by name."""
    refs = {ref.get("snapshot-id") for ref in (metadata.get("refs") or {}).values()}
    return {item for item in {metadata.get("current-snapshot-id"), *refs} if item is not None}


def statistics_of(metadata: Mapping[str, Any]) -> list[str]:
    """The files with statistics that a metadata file names: hints, which a reader does without."""
    table = [str(one["statistics-path"]) for one in metadata.get("statistics") or [] if "statistics-path" in one]
    parts = [
        str(one["statistics-path"]) for one in metadata.get("partition-statistics") or [] if "statistics-path" in one
    ]
    return [*table, *parts]


def metadata_files(prefix: str, there: Iterable[str]) -> list[str]:
    """The metadata files of the table below a prefix, newest number first."""
    folder = f"{prefix}{FOLDER}/"
    found = [(_number(path), path) for path in there if path.startswith(folder)]
    return [path for number, path in sorted(((n, p) for n, p in found if n is not None), reverse=True)]


def metadata_of(
    prefix: str, number: int, there: frozenset[str], read: Callable[[str], bytes]
) -> tuple[str, dict[str, Any]]:
    """The metadata file of a version and what it says; of several the newest that is whole. Raises TableDamaged."""
    inside = [path for path in metadata_files(prefix, there) if _number(path) == number]
    for path, metadata in _candidates(inside, read):
        if not Files(prefix, metadata, there, read).missing():
            return path, metadata
    raise TableDamaged("no metadata file of this version is whole", where=prefix, expected=str(number))


def hinted(data: bytes) -> int:
    """The number a pointer names, -1 when it names none."""
    try:
        return int(data.decode().strip().lstrip("v"))
    except ValueError:
        return -1
