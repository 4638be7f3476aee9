"""An Iceberg table at another place: its metadata written anew with the paths it has there.

Up to format 3 every metadata file, manifest list, manifest and position-delete file holds absolute paths. What is
written anew keeps its name; data files stay as they are. https://iceberg.apache.org/spec,
https://iceberg.apache.org/puffin-spec
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from holdfast.engine.snapshot.tables import iceberg
from holdfast.engine.snapshot.tables.state import TableDamaged

#: Field ids of a position-delete file's columns.
_FILE_PATH_ID = 2147483546
_PUFFIN = b"PFA1"
#: Status of a manifest's entry.
_DELETED = 2


@dataclass
class Moved:
    """A table whose metadata was written anew.

    Args:
        location: where it is now.
        was: where its metadata said that it was.
        files: path in the dataset's folder → new bytes.
        metadata_file: the newest, which a catalogue is pointed at.
        dropped_snapshots: older ones whose files are not here; the new metadata does not name them.
    """

    root: str
    location: str
    was: str
    metadata_file: str
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    dropped_snapshots: int = 0


def move_iceberg(root: str, paths: Iterable[str], read: Callable[[str], bytes], location: str) -> Moved:
    """Write a table's metadata anew for another location. All of its metadata files are.

    Args:
        root: the table's folder in the dataset's, empty when it is the dataset's.
        paths: what there is of the dataset; what the metadata names and is not there is dropped from its history.
        read: a file's bytes, as they were.
        location: URI of the table's folder at its new place, e.g. ``s3://bucket/lake/prices``.

    Returns:
        the new files; none when the table lies where it says, or says nothing absolute.

    Raises:
        TableDamaged: metadata cannot be read, its current version is not whole, or a file of deletes is of a kind
            whose paths cannot be written anew.
    """
    there = frozenset(paths)
    prefix = f"{root}/" if root else ""
    state = iceberg.state(root, there, read)
    newest, metadata = iceberg.metadata_of(prefix, state.version, there, read)
    moved = Moved(root, location.rstrip("/"), str(metadata.get("location", "")).rstrip("/"), newest)
    whole: dict[str, bool] = {}
    if not moved.was or moved.was == moved.location:
        return moved
    for name in iceberg.metadata_files(prefix, there):
        if name in state.torn:
            continue
        found = metadata if name == newest else iceberg.load_metadata(read(name), name)
        mover = _Mover(prefix, found, there, read, moved, whole)
        moved.files[name] = _like(read(name), mover.metadata(found))
        if name == newest:
            moved.dropped_snapshots = mover.dropped
    return moved


class _Mover:
    """Moves what one metadata file names."""

    def __init__(
        self,
        prefix: str,
        metadata: Mapping[str, Any],
        there: frozenset[str],
        read: Callable[[str], bytes],
        moved: Moved,
        whole: dict[str, bool],
    ) -> None:
        self._prefix, self._there, self._read, self._moved, self._whole = prefix, there, read, moved, whole
        self._old = str(metadata.get("location", "")).rstrip("/")
        self.dropped = 0

    # -- paths -------------------------------------------------------------------------------------------------------

    def _inside(self, uri: str) -> str | None:
        """The path in the dataset's folder, ``None`` when it lies outside the table."""
        return self._prefix + uri[len(self._old) + 1 :] if uri.startswith(self._old + "/") else None

    def _new(self, uri: str) -> str:
        """A path as it is at the new place. A relative one (format 4) is right everywhere."""
        if uri == self._old or uri.startswith(self._old + "/"):
            return self._moved.location + uri[len(self._old) :]
        if "://" not in uri and not uri.startswith(("/", "file:")):
            return uri
        raise TableDamaged(
            "the Iceberg table names a file outside its own folder, which did not come with it",
            where=self._moved.root or "the dataset's root",
            expected=f"paths below {self._old}",
            found=uri,
            fix="Rewrite the table's data files into its own location at its origin, then back it up again",
        )

    def _is_there(self, uri: str) -> bool:
        path = self._inside(uri)
        return (path if path is not None else self._prefix + uri) in self._there

    # -- metadata files ----------------------------------------------------------------------------------------------

    def metadata(self, found: Mapping[str, Any]) -> dict[str, Any]:
        new = dict(found)
        kept = [one for one in found.get("snapshots") or [] if self._snapshot_is_there(one)]
        ids = {one.get("snapshot-id") for one in kept}
        self.dropped = len(found.get("snapshots") or []) - len(kept)
        new["location"] = self._moved.location
        if "snapshots" in found:
            new["snapshots"] = [self._snapshot(one) for one in kept]
        if "snapshot-log" in found:
            new["snapshot-log"] = [one for one in found["snapshot-log"] if one.get("snapshot-id") in ids]
        if "metadata-log" in found:
            log = [one for one in found["metadata-log"] if self._is_there(str(one["metadata-file"]))]
            new["metadata-log"] = [{**one, "metadata-file": self._new(str(one["metadata-file"]))} for one in log]
        for name in ("statistics", "partition-statistics"):
            if name in found:
                new[name] = [
                    {**one, "statistics-path": self._new(str(one["statistics-path"]))}
                    for one in found[name]
                    if one.get("snapshot-id") in ids and self._is_there(str(one["statistics-path"]))
                ]
        if "properties" in found:
            new["properties"] = {name: self._property(value) for name, value in found["properties"].items()}
        return new

    def _property(self, value: Any) -> Any:
        own = isinstance(value, str) and (value == self._old or value.startswith(self._old + "/"))
        return self._new(value) if own else value

    def _snapshot_is_there(self, snapshot: Mapping[str, Any]) -> bool:
        """Whether all that a snapshot names came along; the current ones always did."""
        listed = snapshot.get("manifest-list")
        if listed is None:
            return all(self._manifest_is_whole(str(uri)) for uri in snapshot.get("manifests") or [])
        path = self._path(str(listed))
        if path not in self._whole:
            self._whole[path] = path in self._there and all(
                self._manifest_is_whole(row["manifest_path"]) for row in self._avro(str(listed))[0]
            )
        return self._whole[path]

    def _manifest_is_whole(self, uri: str) -> bool:
        path = self._path(uri)
        if path not in self._whole:
            self._whole[path] = path in self._there and all(
                self._is_there(row["data_file"]["file_path"]) for row in self._avro(uri)[0] if row["status"] != _DELETED
            )
        return self._whole[path]

    def _snapshot(self, snapshot: Mapping[str, Any]) -> dict[str, Any]:
        new = dict(snapshot)
        for uri in snapshot.get("manifests") or []:
            self._manifest(str(uri))
        if "manifests" in snapshot:
            new["manifests"] = [self._new(str(uri)) for uri in snapshot["manifests"]]
        if snapshot.get("manifest-list") is not None:
            self._list(str(snapshot["manifest-list"]))
            new["manifest-list"] = self._new(str(snapshot["manifest-list"]))
        return new

    # -- Avro files --------------------------------------------------------------------------------------------------

    def _path(self, uri: str) -> str:
        return self._inside(uri) or self._prefix + uri

    def _avro(self, uri: str) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, str]]:
        path = self._path(uri)
        return iceberg.read_avro(self._read(path), path)

    def _list(self, uri: str) -> None:
        path = self._path(uri)
        if path in self._moved.files:
            return
        rows, header, codec = self._avro(uri)
        for row in rows:
            size = self._manifest(row["manifest_path"])
            row["manifest_length"] = size
            row["manifest_path"] = self._new(row["manifest_path"])
        self._moved.files[path] = write_avro(rows, header, codec["codec"], path)

    def _manifest(self, uri: str) -> int:
        """Write a manifest anew; its size."""
        path = self._path(uri)
        if path not in self._moved.files:
            rows, header, codec = self._avro(uri)
            for row in rows:
                self._data_file(row["data_file"], is_live=row["status"] != _DELETED)
            self._moved.files[path] = write_avro(rows, header, codec["codec"], path)
        return len(self._moved.files[path])

    def _data_file(self, file: dict[str, Any], *, is_live: bool) -> None:
        if file.get("content", 0) == 1 and is_live:
            new, smallest, largest = self._deletes(file)
            file["file_size_in_bytes"] = len(new)
            if file.get("split_offsets") is not None and _kind(file) == "PARQUET":
                file["split_offsets"] = None
            _set_bound(file.get("lower_bounds"), smallest)
            _set_bound(file.get("upper_bounds"), largest)
        if file.get("referenced_data_file") is not None:
            file["referenced_data_file"] = self._new(file["referenced_data_file"])
        file["file_path"] = self._new(file["file_path"])

    def _deletes(self, file: Mapping[str, Any]) -> tuple[bytes, str | None, str | None]:
        """A file of deletes by position, anew; the smallest and the largest path in it."""
        path = self._path(file["file_path"])
        data = self._moved.files.get(path)
        kind = _kind(file)
        if kind == "PARQUET":
            if data is None:
                data = self._moved.files[path] = self._parquet(path)
            column = pq.read_table(pa.BufferReader(data), columns=["file_path"])["file_path"]
            ends = pc.min_max(column).as_py()
            return data, ends["min"], ends["max"]
        if kind == "PUFFIN":
            if data is None:
                data = self._moved.files[path] = self._puffin(path)
            referenced = file.get("referenced_data_file")
            new = None if referenced is None else self._new(referenced)
            return data, new, new
        raise TableDamaged(
            "the table deletes rows by a file whose paths cannot be written anew here",
            where=path,
            expected="Parquet or Puffin",
            found=kind,
            fix="Restore it to the location it was backed up at, or compact the deletes at the origin and back it up",
        )

    def _parquet(self, path: str) -> bytes:
        file = pq.ParquetFile(pa.BufferReader(self._read(path)))
        table = file.read()
        index = table.schema.get_field_index("file_path")
        if index < 0:
            raise TableDamaged("a file of position deletes has no paths", where=path, expected="a column file_path")
        distinct = pc.unique(table["file_path"]).to_pylist()
        names = pa.array([self._new(one) for one in distinct], pa.string())
        moved = names.take(pc.index_in(table["file_path"], value_set=pa.array(distinct, pa.string())).combine_chunks())
        table = table.set_column(index, table.schema.field(index), moved.cast(table.schema.field(index).type))
        sink = pa.BufferOutputStream()
        codec = file.metadata.row_group(0).column(0).compression if file.metadata.num_row_groups else "ZSTD"
        # Sorted by path and position as before: a common beginning of all paths changed, no order.
        pq.write_table(table, sink, compression="NONE" if codec == "UNCOMPRESSED" else codec)
        return bytes(sink.getvalue())

    def _puffin(self, path: str) -> bytes:
        """Deletion vectors: their blobs stay, the footer names other files."""
        data = self._read(path)
        size = int.from_bytes(data[-12:-8], "little", signed=True)
        if data[:4] != _PUFFIN or data[-4:] != _PUFFIN or data[-8] & 1 or not 0 < size <= len(data) - 20:
            raise TableDamaged(
                "a Puffin file cannot be read", where=path, expected="a footer of plain JSON", found="something else"
            )
        start = len(data) - 12 - size - 4  # the footer begins with the magic once more
        footer = json.loads(data[start + 4 : -12])
        for blob in footer.get("blobs", []):
            told = blob.get("properties") or {}
            if "referenced-data-file" in told:
                told["referenced-data-file"] = self._new(told["referenced-data-file"])
        payload = json.dumps(footer, separators=(",", ":")).encode()
        end = payload + len(payload).to_bytes(4, "little", signed=True) + data[-8:-4] + _PUFFIN
        return data[:start] + _PUFFIN + end


def _kind(file: Mapping[str, Any]) -> str:
    return str(file.get("file_format", "PARQUET")).upper()


def _set_bound(bounds: Any, value: str | None) -> None:
    """Put a bound of the column with the paths where there is one; Avro has the map as a list of pairs."""
    for one in bounds or []:
        if isinstance(one, dict) and one.get("key") == _FILE_PATH_ID and value is not None:
            one["value"] = value.encode()


def write_avro(rows: list[dict[str, Any]], header: Mapping[str, Any], codec: str, where: str) -> bytes:
    """Rows with the schema and the metadata of the file they came from; the same bytes every time.

    Raises:
        TableDamaged: they do not read back as they are.
    """
    import fastavro  # type: ignore[import-untyped,unused-ignore]

    schema = json.loads(header["avro.schema"])
    own = {name: value for name, value in header.items() if not name.startswith("avro.")}
    told = json.dumps([schema, own, repr(rows)], sort_keys=True, default=str).encode()
    sink = io.BytesIO()
    fastavro.writer(sink, schema, rows, codec=codec, metadata=own, sync_marker=hashlib.sha256(told).digest()[:16])
    data = sink.getvalue()
    if iceberg.read_avro(data, where)[0] != rows:
        raise TableDamaged("an Avro file written anew does not read back as it was meant", where=where)
    return data


def _like(before: bytes, document: Mapping[str, Any]) -> bytes:
    """JSON, compressed where it was."""
    data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    return gzip.compress(data, mtime=0) if before[:2] == b"\x1f\x8b" else data
