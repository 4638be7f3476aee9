"""Blocks: the raw bytes of protected events, a block for each subject and part of a segment, under the subject's key.

``<segment>.subjects.parquet``; docs/formats/audit-export.md has its columns. Each row group is one part: its rows come
before those of the next one, so a reader holds one part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.engine.audit.commitments import protected_leaf
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.privacy.keys import SubjectKey

SCHEMA = pa.schema(
    [
        ("key_id", pa.binary(16)),
        ("subject", pa.string()),
        ("rows", pa.list_(pa.int32())),
        ("leaves", pa.binary()),
        ("nonce", pa.binary(12)),
        ("size_bytes", pa.int64()),
        ("sealed", pa.large_binary()),
    ]
)
SALT_BYTES, _HASH, _LENGTH = 16, 32, 4
_PART_EVENTS, _PART_BYTES = 50_000, 48 * 1024 * 1024
#: What a block may hold: a part, and one batch of a source more.
_LARGEST_BYTES = 1024 * 1024 * 1024


@dataclass
class _Waiting:
    key: SubjectKey
    subject: str
    rows: list[int] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    salts: list[bytes] = field(default_factory=list)
    raws: list[bytes] = field(default_factory=list)


class BlockWriter:
    """Writes the blocks of one segment; the file is made with the first of them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._writer: pq.ParquetWriter | None = None
        self._waiting: dict[bytes, _Waiting] = {}
        self._events = self._bytes = 0

    def add(self, key: SubjectKey, subject: str, row: int, raw: bytes) -> bytes:
        """Note an event. Returns its leaf."""
        salt = os.urandom(SALT_BYTES)
        leaf = protected_leaf(salt, raw)
        block = self._waiting.setdefault(key.key, _Waiting(key, subject))
        block.rows.append(row)
        block.leaves.append(leaf)
        block.salts.append(salt)
        block.raws.append(raw)
        self._events += 1
        self._bytes += len(raw)
        if self._events >= _PART_EVENTS or self._bytes >= _PART_BYTES:
            self._flush()
        return leaf

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = [_sealed(block) for block in self._waiting.values()]
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.file, SCHEMA, compression="zstd", use_dictionary=False)
        self._writer.write_table(pa.Table.from_pylist(rows, SCHEMA), row_group_size=max(len(rows), 1))
        self._waiting, self._events, self._bytes = {}, 0, 0

    def close(self) -> bool:
        """End the file. Returns whether there is one."""
        self._flush()
        if self._writer is None:
            return False
        self._writer.close()
        return True


def _sealed(block: _Waiting) -> dict[str, Any]:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    lengths = b"".join(len(raw).to_bytes(_LENGTH, "little") for raw in block.raws)
    plain = b"".join([*block.salts, lengths, *block.raws])
    row: dict[str, Any] = {
        "key_id": block.key.key_id,
        "subject": block.subject,
        "rows": block.rows,
        "leaves": b"".join(block.leaves),
        "nonce": os.urandom(12),
        "size_bytes": len(plain),
    }
    packed = pa.Codec("zstd", 3).compress(plain, asbytes=True)
    return {**row, "sealed": AESGCM(block.key.key).encrypt(row["nonce"], packed, _bound(row))}


def _bound(row: Mapping[str, Any]) -> bytes:
    """What a block's ciphertext is bound to: all its other columns."""
    rows = b"".join(one.to_bytes(_LENGTH, "little") for one in row["rows"])
    size = row["size_bytes"].to_bytes(8, "little")
    subject = row["subject"].encode()
    return b"".join(
        [
            b"holdfast.subjects/1\0",
            row["key_id"],
            size,
            len(subject).to_bytes(4, "little"),
            subject,
            rows,
            row["leaves"],
        ]
    )


@dataclass(frozen=True)
class Protected:
    """A protected event, as far as it can be read.

    Args:
        salt, raw: ``None``: its subject's key is not at hand.
        subject: its pseudonym.
    """

    leaf: bytes
    key_id: bytes
    subject: str
    salt: bytes | None = None
    raw: bytes | None = None


class BlockReader:
    """The protected events of one segment, by row; rows are asked for in order.

    Args:
        file: ``None``: the segment has none.
        keys: by id; what they open is compared with the leaves.
    """

    def __init__(self, file: Path | None, keys: Mapping[bytes, SubjectKey] | None = None) -> None:
        self._name = file.name if file else ""
        self._keys = keys or {}
        self._parts = _parts(file) if file else iter(())
        self._rows: dict[int, Protected] = {}
        self._last = -1

    def take(self, row: int) -> Protected:
        """The event of a row. Raises Tampered: no block has it, or a block is damaged."""
        while row not in self._rows:
            if not self._next_part():
                raise Tampered("no block holds a protected event", where=f"{self._name} row {row}")
        return self._rows.pop(row)

    def end(self) -> None:
        """All rows were asked for. Raises Tampered: a block holds others."""
        if self._rows or self._next_part():
            raise Tampered(
                "a block holds events that are not protected", where=f"{self._name} {sorted(self._rows)[:5]}"
            )

    def _next_part(self) -> bool:
        part = next(self._parts, None)
        if part is None:
            return False
        found: dict[int, Protected] = {}
        for number, block in part:
            where = f"{self._name} block {number} ({str(block['subject'])[:40]})"
            for row, event in _events(block, self._keys, where):
                if row in found or row <= self._last:
                    raise Tampered("two blocks hold the same event", where=f"{where} row {row}")
                found[row] = event
        self._last = max(found, default=self._last)
        self._rows.update(found)
        return True


def _parts(file: Path) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    reader, number = pq.ParquetFile(file), 0
    if reader.schema_arrow != SCHEMA:
        raise Tampered("these are no blocks", where=file.name, expected=str(SCHEMA.names), found="another schema")
    for group in range(reader.num_row_groups):
        rows = reader.read_row_group(group, use_threads=False).to_pylist()
        yield list(enumerate(rows, number))
        number += len(rows)


def _events(block: dict[str, Any], keys: Mapping[bytes, SubjectKey], where: str) -> Iterator[tuple[int, Protected]]:
    if any(value is None for value in block.values()) or any(row is None or row < 0 for row in block["rows"]):
        raise Tampered("a block cannot be read", where=where, found="nothing where a value belongs")
    rows, leaves = block["rows"], block["leaves"]
    if len(leaves) != _HASH * len(rows):
        raise Tampered(
            "a block cannot be read", where=where, expected=f"{len(rows)} leaves", found=f"{len(leaves)} bytes"
        )
    key = keys.get(block["key_id"])
    opened = open_block(block, key, where) if key else [(None, None)] * len(rows)
    for number, (row, (salt, raw)) in enumerate(zip(rows, opened, strict=True)):
        leaf = leaves[_HASH * number : _HASH * (number + 1)]
        if raw is not None and salt is not None and protected_leaf(salt, raw) != leaf:
            raise Tampered("a protected event is not what was sealed", where=f"{where} row {row}")
        yield row, Protected(leaf, block["key_id"], block["subject"], salt, raw)


def open_block(block: Mapping[str, Any], key: SubjectKey, where: str) -> list[tuple[bytes | None, bytes | None]]:
    """Salt and raw bytes of each of its events. Raises Tampered: it is damaged."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    size, count = block["size_bytes"], len(block["rows"])
    head = (SALT_BYTES + _LENGTH) * count
    try:
        if not head <= size <= _LARGEST_BYTES:
            raise ValueError(f"{size} bytes")
        packed = AESGCM(key.key).decrypt(block["nonce"], block["sealed"], _bound(block))
        plain = pa.Codec("zstd").decompress(packed, decompressed_size=size, asbytes=True)
        lengths = [
            int.from_bytes(plain[at : at + _LENGTH], "little") for at in range(SALT_BYTES * count, head, _LENGTH)
        ]
        if head + sum(lengths) != len(plain):
            raise ValueError(f"{len(plain)} bytes")
    except (InvalidTag, ValueError, OverflowError, pa.ArrowException) as error:
        raise Tampered(
            "a block is damaged",
            where=where,
            expected="what its subject's key opens",
            found=str(error) or "other bytes",
        ) from None
    found, at = list[tuple[bytes | None, bytes | None]](), head
    for number, length in enumerate(lengths):
        found.append((plain[SALT_BYTES * number : SALT_BYTES * (number + 1)], plain[at : at + length]))
        at += length
    return found


def find_protected(file: Path, row: int, keys: Mapping[bytes, SubjectKey] | None = None) -> Protected:
    """One protected event. Raises Tampered: no block has it."""
    for part in _parts(file):
        for number, block in part:
            if row in block["rows"]:
                return dict(_events(block, keys or {}, f"{file.name} block {number}"))[row]
    raise Tampered("no block holds a protected event", where=f"{file.name} row {row}")
