"""What the clouds' inventory reports have in common: data files in a bucket, checked, as one listing table."""

from __future__ import annotations

import csv as plain_csv
import gzip
import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.listing import LISTING
from holdfast.engine.replication.feeds.errors import FeedDamaged
from holdfast.engine.replication.feeds.interface import Scope
from holdfast.errors import ConfigError

_TEXT, _TIME = pa.large_string(), pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of a report; size and MD5 (hex) where its manifest names them."""

    key: str
    size_bytes: int | None = None
    md5: str | None = None


@dataclass(frozen=True, slots=True)
class CsvForm:
    """How a report writes CSV: the columns' names when there is no header line, and its separator."""

    columns: tuple[str, ...] | None
    delimiter: str = ","
    gzip: bool = False


def read_file(store: ObjectStore, file: DataFile) -> bytes:
    """A data file's bytes: one whole file is held in memory. Raises FeedDamaged."""
    where = f"{store.name}: {file.key}"
    try:
        data = store.get(file.key)
    except ObjectNotFound:
        raise FeedDamaged("a file the report names is not there", where=where, fix=_FIX) from None
    if file.size_bytes is not None and len(data) != file.size_bytes:
        raise FeedDamaged(
            "a file of the report has another size than its manifest says",
            where=where,
            expected=f"{file.size_bytes} bytes",
            found=f"{len(data)} bytes",
            fix=_FIX,
        )
    if file.md5 is not None and (found := md5_of(data)) != file.md5.lower():
        raise FeedDamaged(
            "a file of the report is not the one its manifest names",
            where=where,
            expected=f"MD5 {file.md5}",
            found=found,
            fix=_FIX,
        )
    return data


_FIX = "Wait for the next report, or list in full"


def md5_of(data: bytes) -> str:
    """Only as the clouds' own checksum of their reports."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def read_parquet(data: bytes) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(data))


def read_orc(data: bytes) -> pa.Table:
    from pyarrow import orc

    return orc.ORCFile(pa.BufferReader(data)).read()


def read_csv(data: bytes, form: CsvForm) -> pa.Table:
    """All columns as text; an empty field is null."""
    from pyarrow import csv

    if form.gzip:
        data = gzip.decompress(data)
    names = form.columns
    if names is None:
        (header,) = plain_csv.reader([data.split(b"\n", 1)[0].decode()], delimiter=form.delimiter)
        names = tuple(name.strip() for name in header)
    if not data.strip():
        return pa.table({name: pa.array([], pa.string()) for name in names})
    return csv.read_csv(
        pa.BufferReader(data),
        read_options=csv.ReadOptions(column_names=list(names), skip_rows=0 if form.columns else 1),
        parse_options=csv.ParseOptions(delimiter=form.delimiter, newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    )


def parsed(read: Callable[[bytes], pa.Table], data: bytes, where: str) -> pa.Table:
    """What a reader makes of a file's bytes. Raises FeedDamaged."""
    try:
        return read(data)
    except (pa.ArrowException, OSError, ValueError, EOFError, zlib.error, plain_csv.Error) as error:
        raise FeedDamaged(
            "a file of the report cannot be read", where=where, found=str(error)[:200], fix=_FIX
        ) from None


def require(table: pa.Table, names: Mapping[str, str], where: str) -> None:
    """Raises ConfigError when the report lacks a column a listing needs.

    Args:
        names: column to what it is called where the report is set up.
    """
    missing = [title for column, title in names.items() if column not in table.column_names]
    if missing:
        raise ConfigError(
            "the inventory lacks columns a listing needs",
            where=where,
            expected=", ".join(names.values()),
            found=f"no {', '.join(missing)}",
            fix="Add them to the inventory's configuration; the next report will have them",
        )


def text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(_TEXT)


def decoded(keys: pa.ChunkedArray) -> pa.ChunkedArray:
    """Keys as a form would spell them (``a+b%3D`` is ``a b=``), in plain text."""
    if not pc.any(pc.match_substring_regex(keys, "[%+]")).as_py():
        return keys
    return pa.chunked_array([pa.array([unquote_plus(key) for key in keys.to_pylist()], _TEXT)])


def times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times of any of the reports' forms, in UTC."""
    kind = column.type
    if pa.types.is_integer(kind):  # milliseconds, where an older writer left the annotation out
        column = column.cast(pa.int64()).cast(pa.timestamp("ms", tz="UTC"))
    elif pa.types.is_timestamp(kind) and kind.tz is None:
        column = pc.assume_timezone(column.cast(pa.timestamp("us"), safe=False), "UTC")
    return column.cast(_TIME, safe=False)


def flags(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """``true`` and ``false``, as text or not; null stays null."""
    return column if pa.types.is_boolean(column.type) else pc.equal(pc.utf8_lower(text(column)), "true")


def to_listing(parts: Sequence[pa.Table], scope: Scope, where: str) -> pa.Table:
    """Tables with the bucket's own keys as one listing of the scope, sorted by key.

    Args:
        parts: tables with the columns of `LISTING`.

    Raises:
        FeedDamaged: a key stands twice, or a row lacks key, size or time.
    """
    table = pa.concat_tables([part.select(LISTING.names) for part in parts]) if parts else LISTING.empty_table()
    lead = f"{scope.prefix}/" if scope.prefix else ""
    table = table.filter(pc.starts_with(table["key"], lead + scope.folder))
    bare = pc.utf8_slice_codeunits(table["key"], len(lead)) if lead else table["key"]
    table = table.set_column(0, "key", bare)
    try:
        table = table.cast(LISTING).combine_chunks().sort_by("key")
    except (pa.ArrowException, ValueError) as error:
        raise FeedDamaged("the report has rows without a key, size or time", where=where, found=str(error)) from None
    keys = table["key"]
    if table.num_rows > 1 and pc.any(pc.equal(keys[:-1], keys[1:])).as_py():
        raise FeedDamaged("the report names a key twice", where=where, expected="one current object per key", fix=_FIX)
    return table
