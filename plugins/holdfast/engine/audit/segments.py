"""A segment: the events of one source in one Parquet file, as OCSF columns and, beside them, their raw bytes.

The rows are in the order of the log's leaves. A second file, ``….objects.parquet``, has one row for each object they
came in: its id, digests, framing and how many of the rows are its. Where subjects are protected, a third one has their
events' bytes under the subjects' keys (`privacy.blocks`). docs/formats/audit-export.md has all of them, by column.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from holdfast.engine.audit.commitments import event_leaf, event_leaves
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.interface import Batch, SourceObject
from holdfast.engine.audit.ocsf.schema import SCHEMA
from holdfast.engine.audit.privacy.blocks import BlockReader, BlockWriter
from holdfast.engine.audit.privacy.keys import SubjectKey, SubjectKeys
from holdfast.engine.audit.privacy.pseudonyms import pseudonymise, subjects_of

RAW = "raw"
#: Of a segment's file.
EVENTS_SCHEMA = SCHEMA.append(pa.field(RAW, pa.large_binary(), nullable=False))
#: Of a segment's file where subjects are protected: their events have no raw bytes there.
PROTECTED_SCHEMA = SCHEMA.append(pa.field(RAW, pa.large_binary()))
#: Of the file of its objects.
OBJECTS_SCHEMA = pa.schema(
    [
        ("object_id", pa.string()),
        ("rows", pa.int64()),
        ("size_bytes", pa.int64()),
        ("sha256", pa.binary(32)),
        ("content_sha256", pa.binary(32)),  # null: the same
        ("prefix", pa.binary()),
        ("separator", pa.binary()),
        ("suffix", pa.binary()),
        ("metadata", pa.map_(pa.string(), pa.string())),
        ("version", pa.string()),
        ("modified_at", pa.timestamp("us", tz="UTC")),
    ]
)
_NEVER_NULL = ("object_id", "size_bytes", "sha256", "prefix", "separator", "suffix")
_ROW_GROUP_ROWS, _BATCH_ROWS = 50_000, 20_000
_RAW_BYTES_OF_A_GROUP = 48 * 1024 * 1024
#: What is read of a file that may not be ours. A group of ours goes over 48 MiB by one batch at most.
_MOST_COLUMN_BYTES = 1024 * 1024 * 1024
_MOST_DICTIONARY_BYTES = 64 * 1024 * 1024
_MOST_OBJECT_BYTES = 512 * 1024 * 1024
_MOST_FOOTER_BYTES, _MOST_FOOTER_ENTRIES = 64 * 1024 * 1024, 1_000_000
_OBJECT_TEXTS = ("object_id", "prefix", "separator", "suffix", "version")


@dataclass
class SegmentWriter:
    """Writes one segment, batch by batch, with memory for one row group.

    Args:
        folder: where its files go.
        name: their common beginning, e.g. ``0000``.
        keys: of subjects, whose events are protected; ``None``: nothing is.
    """

    folder: Path
    name: str
    keys: SubjectKeys | None = None
    rows: int = field(default=0, init=False)
    objects: int = field(default=0, init=False)
    raw_bytes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = self._waiting_bytes = 0
        self._blocks = BlockWriter(self.folder / f"{self.name}.subjects.parquet") if self.keys else None
        self._schema = PROTECTED_SCHEMA if self.keys else EVENTS_SCHEMA
        self._events = pq.ParquetWriter(self.folder / f"{self.name}.parquet", self._schema, **events_options())
        self._objects = pq.ParquetWriter(
            self.folder / f"{self.name}.objects.parquet", OBJECTS_SCHEMA, compression="zstd", compression_level=3
        )

    def add(self, batch: Batch, normalised: pa.Table) -> list[bytes]:
        """Write a batch. Returns the leaves of its events, in order.

        Raises ValueError: the table is not one row per event.
        """
        if normalised.num_rows != len(batch.raw):
            raise ValueError(f"expected {len(batch.raw)} normalised events; found {normalised.num_rows}")
        table, raw = normalised.cast(SCHEMA), batch.raw
        if self.keys is not None and self._blocks is not None and len(batch.raw):
            table, raw, leaves = self._protected(table, batch.raw, self.keys, self._blocks)
        else:
            leaves = event_leaves(batch.raw)
        if len(batch.raw):
            self._wait(table.append_column(self._schema.field(RAW), raw))
        self._objects.write_table(_objects_table(batch))
        self.rows += len(batch.raw)
        self.objects += len(batch.objects)
        self.raw_bytes += batch.raw.nbytes
        return leaves

    def _protected(
        self, table: pa.Table, raw: pa.LargeBinaryArray, keys: SubjectKeys, blocks: BlockWriter
    ) -> tuple[pa.Table, pa.LargeBinaryArray, list[bytes]]:
        """The table under pseudonyms, the raw bytes of events without a subject, and all leaves."""
        subjects = subjects_of(table)
        names = subjects.dictionary.to_pylist()
        found = keys.of(names)
        pseudonyms = [key.pseudonym(name) for key, name in zip(found, names, strict=True)]
        leaves = []
        for at, (code, data) in enumerate(zip(subjects.indices.to_pylist(), raw, strict=True)):
            if code is None:
                leaves.append(event_leaf(data.as_py()))
            else:
                leaves.append(blocks.add(found[code], pseudonyms[code], self.rows + at, data.as_py()))
        open_raw = pc.if_else(subjects.is_valid(), pa.scalar(None, pa.large_binary()), raw)
        return pseudonymise(table, subjects, found), open_raw, leaves

    def _wait(self, table: pa.Table) -> None:
        """Gather rows until they fill a group, so that small answers do not become small groups."""
        mean = max(table.column(RAW).nbytes // table.num_rows, 1)
        step = max(min(_ROW_GROUP_ROWS, _RAW_BYTES_OF_A_GROUP // mean), 1)
        for at in range(0, table.num_rows, step):
            part = table.slice(at, step)
            if self._waiting_rows + part.num_rows > _ROW_GROUP_ROWS or self._waiting_bytes >= _RAW_BYTES_OF_A_GROUP:
                self._flush()
            self._waiting.append(part)
            self._waiting_rows += part.num_rows
            self._waiting_bytes += part.num_rows * mean

    def _flush(self) -> None:
        if self._waiting:
            self._events.write_table(pa.concat_tables(self._waiting), row_group_size=_ROW_GROUP_ROWS)
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0

    def close(self) -> None:
        """End its files."""
        self._flush()
        self._events.close()
        self._objects.close()
        if self._blocks is not None:
            self._blocks.close()


def events_options() -> dict[str, Any]:
    """How a file of events is written."""
    columns = [_leaf_path(SCHEMA, name) for name in SCHEMA.names]
    dictionary = [path for paths in columns for path in paths if path != "time"]
    return {
        "compression": "zstd",
        "compression_level": 1,  # of raw events level 1 gave smaller files than 3, and costs half
        "use_dictionary": dictionary,
        "write_statistics": ["time", "class_uid"],
        "store_schema": True,
    }


def _leaf_path(schema: pa.Schema, name: str) -> list[str]:
    def paths(path: str, kind: pa.DataType) -> Iterator[str]:
        if pa.types.is_struct(kind):
            for child in kind:
                yield from paths(f"{path}.{child.name}", child.type)
        elif pa.types.is_list(kind):
            yield from paths(f"{path}.list.element", kind.value_type)
        else:
            yield path

    return list(paths(name, schema.field(name).type))


def _objects_table(batch: Batch) -> pa.Table:
    found = batch.objects
    return pa.table(
        {
            "object_id": [one.object_id for one in found],
            "rows": list(batch.counts),
            "size_bytes": [one.size_bytes for one in found],
            "sha256": [bytes.fromhex(one.sha256) for one in found],
            "content_sha256": [
                None if one.content_sha256 == one.sha256 else bytes.fromhex(one.content_sha256) for one in found
            ],
            "prefix": [one.prefix for one in found],
            "separator": [one.separator for one in found],
            "suffix": [one.suffix for one in found],
            "metadata": [list(one.metadata.items()) for one in found],
            "version": [one.version for one in found],
            "modified_at": [one.modified_at for one in found],
        },
        schema=OBJECTS_SCHEMA,
    )


def read_counts(file: Path) -> list[int]:
    """How many events each object of a segment has, in order. Raises ValueError: the file says it otherwise."""
    reader = _opened(file, ["rows"])
    _check_column(reader, "rows", pa.int64())
    counts: list[int | None] = reader.read(columns=["rows"], use_threads=False).column("rows").to_pylist()
    found = [count for count in counts if count is not None and count >= 0]
    if len(found) != len(counts):
        raise ValueError("expected how many events each object has; found none or less")
    return found


def _check_column(reader: pq.ParquetFile, name: str, *kinds: pa.DataType) -> None:
    found = [column.type for column in reader.schema_arrow if column.name == name]
    if len(found) != 1 or found[0] not in kinds:
        raise ValueError(f"expected one column {name} of {kinds[0]}; found {[str(kind) for kind in found]}")


def read_objects(file: Path) -> list[tuple[SourceObject, int]]:
    """The objects of a segment with how many rows each has, in order.

    Raises:
        ValueError: these are none.
        Tampered: they are far too large.
    """
    read_counts(file)
    reader = _opened(file, OBJECTS_SCHEMA.names)
    if reader.schema_arrow.types != OBJECTS_SCHEMA.types or reader.schema_arrow.names != OBJECTS_SCHEMA.names:
        raise ValueError("expected the columns of a segment's objects")
    # As dictionaries: a value that is there a million times is held once until it was counted.
    table = pq.ParquetFile(file, read_dictionary=_OBJECT_TEXTS).read(use_threads=False)
    if nulls := [name for name in _NEVER_NULL if table.column(name).null_count]:
        raise ValueError(f"expected columns without nulls; found some in {', '.join(nulls)}")
    size = sum(_value_bytes(table.column(name)) for name in _OBJECT_TEXTS)
    if size > _MOST_OBJECT_BYTES:
        raise Tampered(
            "its objects are far too large", where=str(file), expected=f"{_MOST_OBJECT_BYTES} bytes", found=str(size)
        )
    rows = table.to_pylist()
    return [
        (
            SourceObject(
                object_id=row["object_id"],
                size_bytes=row["size_bytes"],
                sha256=row["sha256"].hex(),
                content_sha256=(row["content_sha256"] or row["sha256"]).hex(),
                prefix=row["prefix"],
                separator=row["separator"],
                suffix=row["suffix"],
                metadata=dict(row["metadata"] or ()),
                version=row["version"],
                modified_at=row["modified_at"],
            ),
            row["rows"],
        )
        for row in rows
    ]


def read_raw(file: Path) -> Iterator[pa.LargeBinaryArray]:
    """The raw bytes of a segment's events, in order, a part at a time.

    Raises:
        ValueError: it has no such column.
        Tampered: a column is far too large.
    """
    reader = _opened(file, [RAW])
    _check_column(reader, RAW, pa.large_binary(), pa.binary())
    for group in range(reader.num_row_groups):  # a batch over several groups would hold all of them
        rows = _rows_at_once(reader.metadata.row_group(group))
        for batch in reader.iter_batches(rows, row_groups=[group], columns=[RAW], use_threads=False):
            column = batch.column(0)
            yield column if column.type == pa.large_binary() else column.cast(pa.large_binary())


def read_texts(file: Path) -> Iterator[tuple[str, int, pa.DictionaryArray, pa.Array]]:
    """The texts of a segment's OCSF columns: one column of one row group at a time, each different text once.

    Yields:
        The column's path as OCSF has it, the first row of a part, the texts that are there, and of each its row in the
        part.

    Raises:
        Tampered: a column is far too large.
    """
    leaves = _text_leaves(_opened(file, ()))
    reader = pq.ParquetFile(file, read_dictionary=leaves)
    first = 0
    for group in range(reader.num_row_groups):
        for leaf in leaves:
            at = first
            for chunk in reader.read_row_group(group, columns=[leaf], use_threads=False).column(0).chunks:
                yield leaf.replace(".list.element", ""), at, *_texts_in(chunk)
                at += len(chunk)
        first += reader.metadata.row_group(group).num_rows


def _text_leaves(reader: pq.ParquetFile) -> list[str]:
    """Paths of Parquet, which says what a list's elements are too."""
    columns = (reader.schema.column(number) for number in range(len(reader.schema)))
    return [one.path for one in columns if one.logical_type.type == "STRING"]


def _texts_in(column: pa.Array) -> tuple[pa.DictionaryArray, pa.Array]:
    """The texts of a column that has one leaf, without nulls, and the row of each."""
    rows = pa.array(range(len(column)), pa.int64())
    while not pa.types.is_dictionary(column.type):
        if pa.types.is_list(column.type):
            rows, column = rows.take(pc.list_parent_indices(column)), column.flatten()
        else:
            column = pc.struct_field(column, [0])
    there = column.is_valid()
    return column.filter(there), rows.filter(there)


def _opened(file: Path, wanted: Sequence[str]) -> pq.ParquetFile:
    """A file that somebody else may have made. Raises Tampered: a part of it inflates to too much, or is missing."""
    reader = pq.ParquetFile(
        file, thrift_string_size_limit=_MOST_FOOTER_BYTES, thrift_container_size_limit=_MOST_FOOTER_ENTRIES
    )
    if missing := sorted(set(wanted) - set(reader.schema_arrow.names)):
        raise Tampered("columns are missing", where=str(file), expected=", ".join(wanted), found=f"no {missing[0]}")
    for column in _columns(reader):
        if column.total_uncompressed_size > _MOST_COLUMN_BYTES:
            raise Tampered(
                "a column of a row group is far too large",
                where=f"{file}: {column.path_in_schema}",
                expected=f"at most {_MOST_COLUMN_BYTES} bytes",
                found=str(column.total_uncompressed_size),
            )
    return reader


def _rows_at_once(group: Any) -> int:
    """Ours are plain; where there is a dictionary, each row may be as large as all of it."""
    for column in (group.column(number) for number in range(group.num_columns)):
        if column.path_in_schema == RAW and any("DICTIONARY" in found for found in column.encodings):
            return max(1, min(_BATCH_ROWS, _MOST_DICTIONARY_BYTES // max(int(column.total_uncompressed_size), 1)))
    return _BATCH_ROWS


def _columns(reader: pq.ParquetFile) -> Iterator[Any]:
    about = reader.metadata
    for group in range(about.num_row_groups):
        found = about.row_group(group)
        yield from (found.column(number) for number in range(found.num_columns))


def _value_bytes(column: pa.ChunkedArray) -> int:
    """Of all values, where each is a copy of its own."""
    return sum(
        pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() or 0
        for chunk in column.chunks
        if len(chunk.dictionary)
    )


def read_leaves(
    events: Path, subjects: Path | None = None, keys: Mapping[bytes, SubjectKey] | None = None
) -> Iterator[tuple[pa.LargeBinaryArray, list[bytes]]]:
    """A segment's events and their leaves, in order, a part at a time.

    Args:
        subjects: the file of its protected events.
        keys: by id: the events they open have their raw bytes here, all other protected ones null.

    Raises:
        Tampered: a protected event is not what was sealed, or a block is damaged.
    """
    if subjects is None:
        for raw in read_raw(events):
            yield raw, event_leaves(raw)
        return
    blocks, row = BlockReader(subjects, keys), 0
    for raw in read_raw(events):
        values, leaves = raw.to_pylist(), []
        for at, value in enumerate(values):
            if value is not None:
                leaves.append(event_leaf(value))
                continue
            found = blocks.take(row + at)
            leaves.append(found.leaf)
            values[at] = found.raw
        row += len(values)
        yield pa.array(values, pa.large_binary()), leaves
    blocks.end()


def file_sha256(file: Path) -> str:
    """Hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
