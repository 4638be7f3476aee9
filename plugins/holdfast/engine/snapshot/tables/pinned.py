"""One version of a table and exactly the files a reader of it needs: what a backup of a table holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from holdfast.engine.snapshot.tables import delta, iceberg
from holdfast.engine.snapshot.tables.state import TableDamaged

_SIDECARS = f"{delta.LOG}/_sidecars/"
_LOG_FILE = re.compile(r"^(\d{20})\.(?:(\d{20})\.)?")


@dataclass(frozen=True)
class PinnedTable:
    """A version of a table. Paths are relative to the dataset's folder.

    Args:
        version: Delta's version, or the number of Iceberg's metadata file.
        files: what makes it: data, deletes, log or metadata; nothing of newer versions, no data of older ones.
        metadata_file: Iceberg's, which a catalogue is pointed at.
        location: where Iceberg's metadata says that it lies.
    """

    format: Literal["delta", "iceberg"]
    root: str
    version: int
    files: frozenset[str]
    metadata_file: str | None = None
    location: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the files."""
        return {
            "format": self.format,
            "root": self.root,
            "version": self.version,
            "files": len(self.files),
            "metadata_file": self.metadata_file,
            "location": self.location,
        }


def pin_tables(
    table: Literal["delta", "iceberg"],
    paths: Iterable[str],
    read: Callable[[str], bytes],
    versions: Mapping[str, int] | None = None,
) -> list[PinnedTable]:
    """The tables among these files, each at one version.

    Args:
        table: the format.
        paths: what is there, relative to the dataset's folder.
        read: a file's bytes; only metadata is read.
        versions: by a table's root (empty: the dataset's own folder) the version; by default the newest whole one.

    Raises:
        TableDamaged: the version is not there, not whole, or names files outside the dataset.
    """
    there = frozenset(paths)
    roots = delta.roots(there) if table == "delta" else iceberg.roots(there)
    wanted = dict(versions or {})
    unknown = sorted(wanted.keys() - set(roots))
    if unknown or not roots:
        raise TableDamaged(
            f"there is no {table} table here",
            where=", ".join(unknown) or "the dataset's root",
            expected=f"a table at {', '.join(roots) or 'some folder'}",
            found="none",
        )
    pin = _pin_delta if table == "delta" else _pin_iceberg
    return [pin(root, there, read, wanted.get(root)) for root in roots]


def _pin_delta(root: str, there: frozenset[str], read: Callable[[str], bytes], version: int | None) -> PinnedTable:
    state = delta.state(root, there, read, version)
    if state.absolute:
        raise TableDamaged(
            "the Delta table names files by absolute paths, outside the dataset",
            where=root or "the dataset's root",
            expected="a table whose files all lie in its folder",
            found=state.absolute[0],
            fix="Make a deep copy of the table (a shallow clone reads another table's files)",
        )
    folder = f"{state.prefix}{delta.LOG}/"
    log = {path for path in there if path.startswith(folder) and _of_version(path.removeprefix(folder), state.version)}
    sidecars = {path for path in there if path.startswith(f"{state.prefix}{_SIDECARS}")}
    return PinnedTable("delta", root, state.version, frozenset(state.data | log | sidecars | state.pointers))


def _of_version(name: str, version: int) -> bool:
    """Whether a file of the log is of this version or an older one."""
    match = _LOG_FILE.match(name)
    return match is not None and int(match[2] or match[1]) <= version


def _pin_iceberg(root: str, there: frozenset[str], read: Callable[[str], bytes], version: int | None) -> PinnedTable:
    state = iceberg.state(root, there, read, version)
    prefix = state.prefix
    name, metadata = iceberg.metadata_of(prefix, state.version, there, read)
    found = iceberg.Files(prefix, metadata, there, read)
    statistics = {
        path for uri in iceberg.statistics_of(metadata) if (path := found.relative(uri)) is not None and path in there
    }
    pointer = f"{prefix}{iceberg.FOLDER}/{iceberg.POINTER}"
    pointers = {pointer} & there if pointer in there and iceberg.hinted(read(pointer)) == state.version else set()
    files = frozenset({name, *found.needed, *statistics, *pointers})
    return PinnedTable("iceberg", root, state.version, files, name, found.location)
