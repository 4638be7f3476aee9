"""Arrow tables from bytes somebody else may have made."""

from __future__ import annotations

import struct

import pyarrow as pa

from holdfast.engine.vault.errors import Damaged

#: Fields of Arrow's flatbuffers, by their order in format/Message.fbs: a message's header, a batch's compression.
_HEADER, _COMPRESSION = 2, 3


def read_table(data: bytes | memoryview, schema: pa.Schema, where: str) -> pa.Table:
    """A table of exactly this schema from an Arrow IPC stream, and nothing after it.

    Raises:
        Damaged: it is none, is compressed by Arrow itself, its arrays contradict themselves, or it has no value where
            there must be one.
    """
    try:
        _refuse_compressed(data, where)
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
    except (pa.ArrowException, OSError, MemoryError, ValueError, struct.error) as error:
        raise Damaged("a table cannot be read", where=where, found=str(error)[:300]) from None
    raise Damaged(
        "a table is of another format",
        where=where,
        expected=str(schema.metadata or schema.names),
        found=repr(found.metadata)[:300],
        fix="Use a version of Holdfast that knows this format",
    )


def _refuse_compressed(data: bytes | memoryview, where: str) -> None:
    """Arrow would make room for whatever size compressed buffers name. Raises Damaged."""
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(pa.py_buffer(data)))
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return
        if message.type != "schema" and _is_compressed(bytes(message.metadata)):
            raise Damaged("a table is compressed by Arrow itself", where=where, expected="plain buffers")


def _is_compressed(metadata: bytes) -> bool:
    (root,) = struct.unpack_from("<I", metadata)
    at = _field(metadata, root, _HEADER)
    if at is None:
        return False
    (offset,) = struct.unpack_from("<I", metadata, at)
    return _field(metadata, at + offset, _COMPRESSION) is not None


def _field(metadata: bytes, table: int, number: int) -> int | None:
    """Where a field of a flatbuffer's table lies, ``None`` when it is left out."""
    (back,) = struct.unpack_from("<i", metadata, table)
    (size,) = struct.unpack_from("<H", metadata, table - back)
    if 4 + 2 * number + 2 > size:
        return None
    (offset,) = struct.unpack_from("<H", metadata, table - back + 4 + 2 * number)
    return table + offset if offset else None


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
