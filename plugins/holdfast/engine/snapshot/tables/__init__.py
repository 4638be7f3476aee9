"""Lake tables inside a dataset: which files make a whole version, and in what order they may appear.

A table version is whole when every file its log names is there. The log is parsed here (Delta: JSON and Parquet;
Iceberg: JSON and Avro); the tables' own libraries are not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.tables import delta, iceberg
from holdfast.engine.snapshot.tables.moving import Moved, move_iceberg
from holdfast.engine.snapshot.tables.pinned import PinnedTable, pin_tables
from holdfast.engine.snapshot.tables.state import TableDamaged, TableState

TableFormat = Literal["delta", "iceberg"]

__all__ = [
    "Moved",
    "PinnedTable",
    "TableDamaged",
    "TableFormat",
    "TableState",
    "iceberg_roots",
    "live_data",
    "move_iceberg",
    "pin_tables",
    "require_whole",
    "table_order",
    "table_state",
    "table_states",
    "table_waves",
]


def table_order(table: TableFormat, paths: Iterable[str]) -> list[list[str]]:
    """The order in which a table's files may appear where a reader could see them one by one.

    Data first, then metadata in commit order, then the pointer. Each inner list may be written at once, when the list
    before it is whole.

    Args:
        table: the format.
        paths: the files to write, relative to the dataset's folder; several tables may lie in it.
    """
    ordered = sorted(paths)
    return delta.order(ordered) if table == "delta" else iceberg.order(ordered)


def table_waves(table: TableFormat, paths: Iterable[str]) -> dict[str, int]:
    """The same order as numbers: path → the place of its group, 0 for data."""
    return {path: number for number, group in enumerate(table_order(table, paths)) for path in group}


def require_whole(table: TableFormat, paths: Iterable[str], read: Callable[[str], bytes]) -> list[TableState]:
    """The states of the tables a snapshot of these files would hold, each with its newest version whole.

    Raises:
        TableDamaged: a log names a file that is not among them: the snapshot must not be published.
    """
    states = table_states(table, paths, read)
    for state in states:
        if not state.is_whole:
            raise TableDamaged(
                "the table's newest version is torn at its source",
                where=state.root or "the dataset's root",
                expected="every file that its log names",
                found=state.problem,
                fix="Restore the missing files, or remove the broken commit, at the source; until then nothing newer "
                "is published",
            )
    return states


def table_states(table: TableFormat, paths: Iterable[str], read: Callable[[str], bytes]) -> list[TableState]:
    """The newest whole version of each table among these files, by root.

    Args:
        paths: what is there, relative to the dataset's folder.
        read: a file's bytes; only metadata is read.

    Raises:
        TableDamaged: a log file cannot be read, or no version of a table is whole.
    """
    there = frozenset(paths)
    if table == "delta":
        return [delta.state(root, there, read) for root in delta.roots(there)]
    return [iceberg.state(root, there, read) for root in iceberg.roots(there)]


def table_state(store: ObjectStore, folder: str, *, table: TableFormat) -> list[TableState]:
    """As `table_states`, of the tables that lie live in a folder of a bucket.

    The folder is listed before anything is read. A version committed after that is not looked at; a file removed after
    that is a torn version, as it would be to a copy.

    Args:
        folder: under ``data/``.
    """
    prefix = f"data/{folder}/"
    paths = [info.key.removeprefix(prefix) for info in store.list(prefix)]
    inside = [path for path in paths if not path.startswith(".versions/")]
    return table_states(table, inside, lambda path: store.get(prefix + path))


def iceberg_roots(paths: Iterable[str]) -> list[str]:
    """The folders of the Iceberg tables among these files."""
    return iceberg.roots(paths)


def live_data(paths: Iterable[str], read: Callable[[str], bytes]) -> set[str] | None:
    """The data files that the newest versions of the tables among these files name, and files of no table.

    ``None`` when there is no table. Deletes that lie beside the data (deletion vectors, delete files) are not applied:
    such a table is refused.

    Raises:
        TableDamaged: no version of a table is whole, or reading its data files alone would give deleted rows.
    """
    there = frozenset(paths)
    states = table_states("delta", there, read) + table_states("iceberg", there, read)
    if not states:
        return None
    chosen = {path for path in there if not any(path.startswith(state.prefix) for state in states)}
    for state in states:
        if state.row_deletes:
            raise TableDamaged(
                "the table has deleted rows that its data files still hold",
                where=state.root or "the dataset's root",
                expected="a reader that knows the table format",
                found=f"{state.row_deletes} files with row-level deletes",
                fix="Read it with deltalake or pyiceberg",
            )
        chosen |= state.data
    return chosen
