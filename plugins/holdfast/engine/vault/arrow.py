"""Arrow tables from bytes somebody else may have made."""

from __future__ import annotations

import pyarrow as pa

from holdfast.engine.vault.errors import Damaged


def read_table(data: bytes | memoryview, schema: pa.Schema, where: str) -> pa.Table:
    """A table of exactly this schema from an Arrow IPC stream, and nothing after it.

    Raises:
        Damaged: it is none, its arrays contradict themselves, or it has no value where there must be one.
    """
    try:
        source = pa.BufferReader(pa.py_buffer(data))
        with pa.ipc.open_stream(source) as reader:
            found = reader.schema
            if found.equals(schema, check_metadata=True):
                table = reader.read_all()
                table.validate(full=True)
                table = table.combine_chunks()
                if source.tell() == len(data) and not _lacks(table):
                    return table
                raise Damaged("a table lacks values, or something follows it", where=where)
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
        raise Damaged("a table cannot be read", where=where, found=str(error)[:300]) from None
    raise Damaged(
        "a table is of another format",
        where=where,
        expected=str(schema.metadata or schema.names),
        found=repr(found.metadata)[:300],
        fix="Use a version of Holdfast that knows this format",
    )


def _lacks(table: pa.Table) -> bool:
    for field in table.schema:
        column = table[field.name]
        if not field.nullable and column.null_count:
            return True
        if pa.types.is_list(field.type) and any(
            not field.type.value_field.nullable and chunk.flatten().null_count for chunk in column.chunks
        ):
            return True
    return False
