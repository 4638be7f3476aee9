"""Packs, indexes and trees only somebody with a writer's key can make: they are damage, never a crash or a bomb."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard

from holdfast.engine.objectstore.interface import CREATE
from holdfast.engine.vault import layout
from holdfast.engine.vault.arrow import read_table as read_arrow
from holdfast.engine.vault.backups import live_backups
from holdfast.engine.vault.chunking import Chunker
from holdfast.engine.vault.crypto import seal
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.index import (
    CHUNK_SCHEMA,
    KIND,
    PACK_SCHEMA,
    ChunkIndex,
    IndexedPack,
    decode_index,
    encode_index,
)
from holdfast.engine.vault.log import LogEntry
from holdfast.engine.vault.pack import (
    MOST_PLAIN_BYTES,
    TABLE_KIND,
    Codec,
    PackClass,
    PackInfo,
    PackWriter,
    StoredChunk,
    chunk_id,
    read_head,
    read_table,
)
from holdfast.engine.vault.reading import ChunkReader
from holdfast.engine.vault.restore import RestoreOptions, restore_backup
from holdfast.engine.vault.secrets import NewSecrets, public_of
from holdfast.engine.vault.session import Session
from holdfast.engine.vault.targets import FolderTarget
from holdfast.engine.vault.tree import SCHEMA, TreeRow, TreeWriter, decode_segment, encode_segment
from holdfast.engine.vault.vault import index_digest
from holdfast.engine.vault.verify import Depth, VerifyOptions, verify_vault
from holdfast.errors import ConfigError, HoldfastError
from vault_world import SMALL, VaultWorld, read_tree, some_files, write_tree

SECRETS = NewSecrets.make()
DIGEST = "blake3:" + "0" * 64


def new_pack(kind: PackClass = PackClass.DATA) -> PackWriter:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    recipient = X25519PublicKey.from_public_bytes(public_of(SECRETS.reader.private[1]))
    return PackWriter(SECRETS.writer, kind, 1, recipient, capacity=4 * 1024 * 1024)


def opened(pack: PackWriter, chunk: StoredChunk, data: bytes) -> bytes:
    head = read_head(data, SECRETS.reader, pack.pack_id, "here")
    stored = data[chunk.offset : chunk.offset + chunk.stored_bytes]
    return head.open_chunk(chunk, stored, SECRETS.reader.chunk_key, "here")


def test_a_chunk_that_would_grow_beyond_what_it_says_is_not_unpacked() -> None:
    """A frame may name any size: room would be made for it before a byte is compared."""
    bomb = zstandard.ZstdCompressor().compress(bytes(1024))
    grown = bytearray(zstandard.ZstdCompressor(write_content_size=True).compress(bytes(100_000)))
    for payload, plain in ((bomb, 10), (bytes(grown), 1024), (b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\0" * 9, 1024)):
        pack = new_pack()
        chunk = pack.add(bytes(32), payload, Codec.ZSTD, plain)
        with pytest.raises(Damaged):
            opened(pack, chunk, pack.finish())


def test_bytes_after_a_compressed_chunk_are_refused() -> None:
    content = b"content" * 100
    pack = new_pack()
    name = chunk_id(SECRETS.writer.chunk_key, PackClass.DATA, content)
    chunk = pack.add(name, zstandard.ZstdCompressor().compress(content) + b"more", Codec.ZSTD, len(content))
    with pytest.raises(Damaged):
        opened(pack, chunk, pack.finish())


def test_a_chunk_larger_than_any_may_be_is_neither_written_nor_read() -> None:
    too_large = MOST_PLAIN_BYTES[PackClass.DATA] + 1
    with pytest.raises(ConfigError):
        new_pack().add(bytes(32), b"", Codec.ZSTD, too_large)
    pack = new_pack()
    chunk = pack.add(bytes(32), b"x", Codec.ZSTD, 1)
    with pytest.raises(Damaged, match="larger than any"):
        opened(pack, replace(chunk, plain_bytes=too_large), pack.finish())


def test_other_content_than_a_chunk_is_named_for_is_refused() -> None:
    pack = new_pack()
    chunk = pack.add(chunk_id(SECRETS.writer.chunk_key, PackClass.DATA, b"good"), b"evil", Codec.RAW, 4)
    with pytest.raises(Damaged, match="not what its name says"):
        opened(pack, chunk, pack.finish())


def test_the_content_of_one_class_is_none_of_another() -> None:
    assert chunk_id(bytes(32), PackClass.DATA, b"x") != chunk_id(bytes(32), PackClass.TREE, b"x")


def test_a_pack_whose_sealed_key_was_changed_is_damaged_and_says_so() -> None:
    pack = new_pack()
    pack.add(bytes(32), b"x", Codec.RAW, 1)
    data = bytearray(pack.finish())
    for place in (30, 50, 80, 120):
        changed = bytes(data[:place]) + bytes([data[place] ^ 1]) + bytes(data[place + 1 :])
        with pytest.raises(Damaged):
            read_head(changed, SECRETS.reader, pack.pack_id, "here")


ROW = struct.Struct(">32sQIIB")


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: [(rows[0][0], 2**40, *rows[0][2:]), *rows[1:]],
        lambda rows: [(*rows[0][:2], 2**32 - 1, *rows[0][3:]), *rows[1:]],
        lambda rows: [(*rows[0][:3], 2**32 - 1, rows[0][4]), *rows[1:]],
        lambda rows: [(*rows[0][:4], 9), *rows[1:]],
        lambda rows: rows[1:],
        lambda rows: rows[::-1],
        lambda rows: [],
    ],
)
def test_a_table_that_places_chunks_elsewhere_is_refused(change: Callable[[list[Any]], list[Any]]) -> None:
    pack = new_pack()
    for number in range(3):
        pack.add(bytes([number] * 32), b"x" * (number + 1), Codec.RAW, number + 1)
    rows = [(one.chunk_id, one.offset, one.stored_bytes, one.plain_bytes, int(one.codec)) for one in pack.chunks]
    end = pack.size_bytes
    body = pack.finish()[:end]
    table = seal(
        SECRETS.writer.metadata_key,
        TABLE_KIND,
        SECRETS.writer.repository,
        bytes([PackClass.DATA]) + pack.pack_id + b"".join(ROW.pack(*row) for row in change(rows)),
    )
    data = body + table + struct.pack(">I4s", len(table), b"HFVE")
    with pytest.raises(Damaged, match="none can be"):
        read_table(data, len(data), SECRETS.writer, pack.pack_id, "here")


def indexed(chunks: Sequence[StoredChunk], *, size: int = 10_000, tier: str = "daily", kind: int = 1) -> bytes:
    info = PackInfo(bytes(16), kind, tier, size, None)  # type: ignore[arg-type]
    return encode_index([IndexedPack(info, chunks)], SECRETS.writer.metadata_key, SECRETS.writer.repository)[1]


def read_index(data: bytes) -> None:
    decode_index(data, SECRETS.writer.metadata_key, SECRETS.writer.repository, "here")


@pytest.mark.parametrize(
    "make",
    [
        lambda: indexed([StoredChunk(bytes(32), 9_990, 17, 1, Codec.RAW, 0)]),
        lambda: indexed([StoredChunk(bytes(32), 200, 17, 2, Codec.RAW, 0)]),
        lambda: indexed([StoredChunk(bytes(32), 200, 17, 2**32 - 1, Codec.ZSTD, 0)]),
        lambda: indexed([StoredChunk(bytes(32), 200, 17, 1, 7, 0)]),  # type: ignore[arg-type]
        lambda: indexed([], tier="../../log"),
        lambda: indexed([], kind=9),
        lambda: indexed([], size=2**40),
    ],
)
def test_an_index_of_what_cannot_be_is_refused(make: Callable[[], bytes]) -> None:
    read_index(indexed([StoredChunk(bytes(32), 200, 17, 1, Codec.RAW, 0)]))
    with pytest.raises(Damaged, match="none can be"):
        read_index(make())


def ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def sealed_index(plain: bytes) -> bytes:
    packed = zstandard.ZstdCompressor().compress(plain)
    return seal(SECRETS.writer.metadata_key, KIND, SECRETS.writer.repository, packed)


@pytest.mark.parametrize("plain", [b"", b"\0\0\0", bytes(1000), b"\xff" * 1000])
def test_an_index_that_is_none_is_refused(plain: bytes) -> None:
    with pytest.raises(Damaged):
        read_index(sealed_index(plain))


def test_an_index_with_fewer_chunks_than_its_packs_count_is_refused() -> None:
    first = ipc(pa.table([[bytes(16)], [1], ["daily"], [1000], [None], [5]], schema=PACK_SCHEMA))
    second = ipc(CHUNK_SCHEMA.empty_table())
    with pytest.raises(Damaged, match="none can be"):
        read_index(sealed_index(len(first).to_bytes(4, "big") + first + second))


def test_an_index_without_a_value_where_there_must_be_one_is_refused() -> None:
    loose = pa.schema([field.with_nullable(True) for field in PACK_SCHEMA], metadata=PACK_SCHEMA.metadata)
    table = pa.table([[None], [1], ["daily"], [1000], [None], [0]], schema=loose)
    first = ipc(table.cast(loose))
    forced = pa.Table.from_batches(
        [pa.RecordBatch.from_arrays(batch.columns, schema=PACK_SCHEMA) for batch in table.to_batches()]
    )
    second = ipc(CHUNK_SCHEMA.empty_table())
    for data in (first, ipc(forced)):
        with pytest.raises(Damaged):
            read_index(sealed_index(len(data).to_bytes(4, "big") + data + second))


def test_a_table_that_arrow_would_blow_up_is_refused_before_it_does() -> None:
    """A quarter of a gigabyte of zeros in some kilobytes: Arrow may compress inside its own messages."""
    rows = 1_000_000
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), rows, [None, pa.py_buffer(bytes(32 * rows))])
    numbers = [pa.array([0] * rows, field.type) for field in list(CHUNK_SCHEMA)[1:]]
    table = pa.table([column, *numbers], schema=CHUNK_SCHEMA)
    for compression in ("zstd", "lz4"):
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        data = bytes(sink.getvalue())
        assert len(data) < 1_000_000
        before = pa.total_allocated_bytes()
        with pytest.raises(Damaged, match="compressed"):
            read_arrow(data, CHUNK_SCHEMA, "here")
        assert pa.total_allocated_bytes() == before


def tree(**columns: Any) -> bytes:
    row: dict[str, Any] = {
        "path": ["a"], "size_bytes": [1], "digest": [DIGEST], "modified_at": [None], "state": [None], "mode": [None],
        "chunks": [[bytes(32)]],
    }  # fmt: skip
    row.update(columns)
    return ipc(pa.table(list(row.values()), schema=SCHEMA))


@pytest.mark.parametrize(
    "columns",
    [
        {"size_bytes": [-1]},
        {"digest": ["blake3:xyz"]},
        {"digest": [DIGEST + "\n"]},
        {"modified_at": pa.array([2**62], pa.timestamp("us", tz="UTC"))},
        {"mode": [-1]},
        {"mode": [0o10000]},
    ],
)
def test_a_tree_of_what_cannot_be_is_refused(columns: dict[str, Any]) -> None:
    decode_segment(tree(), "here")
    with pytest.raises(Damaged):
        decode_segment(tree(**columns), "here")


@pytest.mark.parametrize("paths", [["b", "a"], ["a", "a"], []])
def test_a_tree_out_of_order_is_refused(paths: list[str]) -> None:
    rows = [TreeRow(path, 0, DIGEST, None, None, None, ()) for path in paths]
    with pytest.raises(Damaged):
        decode_segment(encode_segment(rows), "here")


def test_a_source_that_names_an_object_twice_makes_no_backup() -> None:
    writer = TreeWriter(lambda _data: bytes(32))
    writer.add(TreeRow("a", 0, DIGEST, None, None, None, ()))
    with pytest.raises(HoldfastError, match="out of order"):
        writer.add(TreeRow("a", 0, DIGEST, None, None, None, ()))


# -- beside good backups -------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> VaultWorld:
    world = VaultWorld().make()
    write_tree(tmp_path / "source", some_files(count=6))
    world.back_up(tmp_path / "source")
    return world


def commit(world: VaultWorld, body: dict[str, Any], indexes: Sequence[tuple[bytes, str]] = ()) -> LogEntry:
    named = [[name.hex(), digest] for name, digest in indexes]
    return world.commit({"backup": "e" * 32, "tier": "daily", "indexes": named}, body)


def body_of(world: VaultWorld, segments: Sequence[Any]) -> dict[str, Any]:
    vault = world.open("writer")
    found = vault.history.backups[2].open_body(vault.secrets)
    return {**found, "source": "evil", "segments": list(segments)}


def test_an_index_that_says_older_chunks_lie_elsewhere_keeps_no_backup_from_being_restored(
    world: VaultWorld, tmp_path: Path
) -> None:
    """Also where the list of the indexes is in another order, which a collection of an earlier version could leave."""
    vault = world.open("writer")
    genuine = vault.load_index().index
    names = [chunk.chunk_id for number in range(len(genuine.packs)) for chunk in genuine.chunks_of(number)]
    lies = [StoredChunk(name, 200 + 20 * n, 17, 1, Codec.RAW, n) for n, name in enumerate(names)]
    info = PackInfo(b"L" * 16, PackClass.DATA, "daily", 10**6, None)
    secrets = vault.secrets
    index_id, data = encode_index([IndexedPack(info, lies)], secrets.metadata_key, secrets.repository)
    vault.store.put(layout.index_key(index_id), data, mode=CREATE)
    commit(world, body_of(world, []), [(index_id, index_digest(data))])
    for folder, turned in (("out", False), ("turned", True)):
        reader = world.open("reader")
        if turned:
            indexes = dict(reversed(reader.history.indexes.items()))
            reader = reader.at(replace(reader.history, indexes=indexes))
        chunks = ChunkReader(reader, reader.load_index().index)
        rows = list(chunks.rows(live_backups(reader)[0]))
        target = FolderTarget(tmp_path / folder)
        for row in rows:
            target.write(row, iter(chunks.read_many(row.chunks)[name] for name in row.chunks))
        assert read_tree(tmp_path / folder) == some_files(count=6)


def test_an_object_with_more_content_than_its_size_says_is_refused_before_it_is_read(
    world: VaultWorld, tmp_path: Path
) -> None:
    vault = world.open("writer")
    reader = ChunkReader(vault, vault.load_index().index)
    rows = list(reader.rows(live_backups(vault)[0]))
    row = max(rows, key=lambda one: one.size_bytes)
    lie = encode_segment([replace(row, path="small", size_bytes=1, digest=DIGEST)])
    with Session(vault, ChunkIndex(()), "daily") as session:
        name = session.add(PackClass.TREE, lie)
        indexes = session.finish()
    entry = commit(world, body_of(world, [[name.hex(), "small", 1, 1]]), indexes)
    opened_vault = world.open("reader")
    evil = next(one for one in live_backups(opened_vault) if one.sequence == entry.sequence)
    report = restore_backup(opened_vault, evil, FolderTarget(tmp_path / "out"), RestoreOptions(keep_going=True))
    assert "more content" in report.damaged["small"]
    assert report.restored == 0


def test_a_part_of_a_tree_that_is_another_than_named_is_refused(world: VaultWorld, tmp_path: Path) -> None:
    vault = world.open("writer")
    (part, *_) = live_backups(vault)[0].segments
    entry = commit(world, body_of(world, [[part.chunk_id.hex(), part.first, part.rows + 1, part.size_bytes]]))
    reader = world.open("reader")
    evil = next(one for one in live_backups(reader) if one.sequence == entry.sequence)
    with pytest.raises(Damaged, match="another than its backup names"):
        restore_backup(reader, evil, FolderTarget(tmp_path / "out"))


def test_the_time_of_the_largest_and_the_smallest_year_is_kept() -> None:
    times = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)]
    rows = [TreeRow(str(n), 0, DIGEST, at, None, None, ()) for n, at in enumerate(times)]
    assert decode_segment(encode_segment(rows), "here")["modified_at"].to_pylist() == times


def test_content_under_false_names_is_stored_anew_once_its_pack_is_removed(world: VaultWorld, tmp_path: Path) -> None:
    """A thief of the writer's key who knows what comes next can be there first; a full verification finds it."""
    coming = b"what the next backup will hold\n" * 2_000
    vault = world.open("writer")
    cutter = Chunker(SMALL.chunk_bytes, vault.secrets.chunk_seed)
    with Session(vault, ChunkIndex(()), "daily") as session:
        pack = session._pack_with_room(PackClass.DATA, 100)
        for piece in cutter.cut(coming):
            pack.add(chunk_id(vault.secrets.chunk_key, PackClass.DATA, piece), b"false", Codec.RAW, 5)
        indexes = session.finish()
    commit(world, body_of(world, []), indexes)
    write_tree(tmp_path / "source", {"coming": coming})
    poisoned = world.back_up(tmp_path / "source").backup
    with pytest.raises(Damaged, match="is not what its"):
        world.restore(tmp_path / "before", poisoned.backup_id)
    report = verify_vault(world.open("reader"), VerifyOptions(depth=Depth.FULL))
    assert report.affected == {poisoned.backup_id: ["coming"]}
    (false,) = report.damaged_packs
    world.store.delete(layout.pack_key("daily", bytes.fromhex(false)))
    world.back_up(tmp_path / "source")
    for backup in (poisoned.backup_id, None):
        world.restore(tmp_path / f"after-{backup}", backup)
        assert read_tree(tmp_path / f"after-{backup}") == read_tree(tmp_path / "source")
