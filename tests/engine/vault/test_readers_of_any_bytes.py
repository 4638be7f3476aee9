"""Whatever bytes lie where a document of the vault belongs: its reader says so, or gives what was written."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.interface import CREATE, OVERWRITE
from holdfast.engine.vault import layout
from holdfast.engine.vault.crypto import seal, unseal
from holdfast.engine.vault.errors import Damaged, HistoryDamaged, WrongKey
from holdfast.engine.vault.history import load_history
from holdfast.engine.vault.index import KIND, IndexedPack, decode_index, encode_index
from holdfast.engine.vault.keys import Keys
from holdfast.engine.vault.keysets import unlock, write_keyset
from holdfast.engine.vault.log import make_entry, parse_entry
from holdfast.engine.vault.pack import (
    TABLE_KIND,
    Codec,
    PackClass,
    PackInfo,
    PackWriter,
    StoredChunk,
    chunk_id,
    head_bytes,
    read_head,
    read_table,
)
from holdfast.engine.vault.recipients import SecretRecipient
from holdfast.engine.vault.secrets import NewSecrets, public_of
from holdfast.engine.vault.tree import TreeRow, decode_segment, encode_segment

SECRETS = NewSecrets.make()
WRITER = SECRETS.writer
ADMIN = SECRETS.admin
HERE = "here"


@dataclass(frozen=True)
class Change:
    """One way in which bytes became others."""

    kind: str
    place: float
    length: int
    fill: bytes

    def apply(self, data: bytes, other: bytes) -> bytes:
        at = int(self.place * len(data))
        match self.kind:
            case "flip":
                return data[:at] + bytes([data[at] ^ (1 << self.length % 8)]) + data[at + 1 :] if data else data
            case "cut":
                return data[:at]
            case "drop":
                return data[:at] + data[at + self.length :]
            case "insert":
                return data[:at] + self.fill + data[at:]
            case "overwrite":
                return data[:at] + self.fill + data[at + len(self.fill) :]
            case "append":
                return data + self.fill
            case "splice":
                return data[:at] + other[at:]
            case "swap":
                return other
            case _:
                return self.fill


CHANGES = st.builds(
    Change,
    st.sampled_from(["flip", "cut", "drop", "insert", "overwrite", "append", "splice", "swap", "else"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 64),
    st.binary(max_size=96),
)
MANY = st.lists(CHANGES, min_size=1, max_size=3)


def changed(changes: list[Change], data: bytes, other: bytes) -> bytes:
    for change in changes:
        data = change.apply(data, other)
    return data


def read_or_refused(read: Callable[[bytes], Any], good: bytes, bad: bytes, *, same: bool = False) -> None:
    """Other bytes are refused. With ``same`` they may also be read, as what the good ones say."""
    try:
        found = read(bad)
    except (Damaged, WrongKey):
        return
    assert bad == good or same
    assert found == read(good)


def pack_of(seed: int, kind: PackClass) -> tuple[PackWriter, bytes]:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    rng = random.Random(seed)
    recipient = X25519PublicKey.from_public_bytes(public_of(SECRETS.reader.private[1]))
    pack = PackWriter(WRITER, kind, 1, recipient, capacity=64 * 1024)
    for size in (1, 100, 900):
        content = rng.randbytes(size)
        pack.add(chunk_id(WRITER.chunk_key, kind, content), content, Codec.RAW, size)
    return pack, pack.finish()


PACKS = {kind: (pack_of(1, kind), pack_of(2, kind)) for kind in PackClass}


@given(st.sampled_from(list(PackClass)), MANY)
@settings(max_examples=300, deadline=None)
def test_a_pack(kind: PackClass, changes: list[Change]) -> None:
    (pack, good), (_, other) = PACKS[kind]

    def contents(data: bytes) -> list[bytes]:
        head = read_head(data[: head_bytes(kind)], SECRETS.reader, pack.pack_id, HERE, generations={1})
        return [
            head.open_chunk(chunk, data[chunk.offset : chunk.offset + chunk.stored_bytes], WRITER.chunk_key, HERE)
            for chunk in pack.chunks
        ]

    def table(data: bytes) -> Any:
        found = read_table(data[-250:], len(data), WRITER, pack.pack_id, HERE)
        return found if not isinstance(found, int) else read_table(data, len(data), WRITER, pack.pack_id, HERE)

    bad = changed(changes, good, other)
    read_or_refused(contents, good, bad, same=True)  # what follows the chunks is no part of them
    read_or_refused(table, good, bad, same=True)


def sealed_index(count: int) -> bytes:
    chunks = [StoredChunk(bytes([number]) * 32, 200 + number * 20, 20, 4, Codec.RAW, number) for number in range(count)]
    info = PackInfo(bytes([count]) * 16, PackClass.DATA, "daily", 10_000, bytes(32))
    return encode_index([IndexedPack(info, chunks)], WRITER.metadata_key, WRITER.repository)[1]


INDEXES = sealed_index(5), sealed_index(9)


def read_index(data: bytes) -> Any:
    part = decode_index(data, WRITER.metadata_key, WRITER.repository, HERE)
    return part.packs, part.chunks


@given(MANY)
@settings(max_examples=300, deadline=None)
def test_a_sealed_index(changes: list[Change]) -> None:
    good, other = INDEXES
    bad = changed(changes, good, other)
    if bad != other:
        read_or_refused(read_index, good, bad)


@given(MANY)
@settings(max_examples=300, deadline=None)
def test_what_a_writer_seals_as_an_index(changes: list[Change]) -> None:
    """Whoever has the metadata key may seal anything: then it is an index, or damage."""
    plain, other = (unseal(WRITER.metadata_key, KIND, WRITER.repository, data, HERE) for data in INDEXES)
    import zstandard

    for packed in (
        changed(changes, plain, other),
        zstandard.compress(changed(changes, zstandard.decompress(plain), zstandard.decompress(other))),
    ):
        try:
            packs, chunks = read_index(seal(WRITER.metadata_key, KIND, WRITER.repository, packed))
        except Damaged:
            continue
        assert sum(packs["chunks"].to_pylist()) == chunks.num_rows


def segment(seed: int) -> bytes:
    rng = random.Random(seed)
    at = datetime(2026, 3, 1, tzinfo=UTC)
    return encode_segment(
        TreeRow(f"folder/{number:03}", number, f"blake3:{rng.randbytes(32).hex()}", at, "state", 0o644, (bytes(32),))
        for number in range(seed)
    )


@given(MANY)
@settings(max_examples=300, deadline=None)
def test_what_a_writer_stores_as_a_tree(changes: list[Change]) -> None:
    try:
        table = decode_segment(changed(changes, segment(7), segment(12)), HERE)
    except Damaged:
        return
    rows = table.to_pylist()
    assert [row["path"] for row in rows] == sorted({row["path"] for row in rows})
    assert all(len(name) == 32 for row in rows for name in row["chunks"])


@given(MANY)
@settings(max_examples=300, deadline=None)
def test_a_sealed_object(changes: list[Change]) -> None:
    good, other = (seal(WRITER.metadata_key, TABLE_KIND, WRITER.repository, data) for data in (b"good", b"other"))
    bad = changed(changes, good, other)
    if bad != other:
        read_or_refused(lambda data: unseal(WRITER.metadata_key, TABLE_KIND, WRITER.repository, data, HERE), good, bad)


@given(st.binary(min_size=1, max_size=1), st.binary(min_size=16, max_size=16))
def test_a_sealed_object_of_another_kind_or_repository(kind: bytes, repository: bytes) -> None:
    assume(kind != TABLE_KIND)
    assume(repository != WRITER.repository)
    data = seal(WRITER.metadata_key, TABLE_KIND, WRITER.repository, b"data")
    for other_kind, other_repository in ((kind, WRITER.repository), (TABLE_KIND, repository)):
        with pytest.raises((Damaged, WrongKey)):
            unseal(WRITER.metadata_key, other_kind, other_repository, data, HERE)


KEYS = Keys(
    recipients={1: public_of(SECRETS.reader.private[1])},
    signers={ADMIN.verifier: "admin", WRITER.verifier: "writer"},
    keysets=dict.fromkeys(("writer", "reader", "admin"), "0" * 64),
)


def entry(sequence: int, kind: str, public: Any, body: Any, previous: str | None) -> bytes:
    return make_entry(
        ADMIN,
        sequence=sequence,
        previous=previous,
        kind=kind,
        created_at=datetime(2026, 3, 1, tzinfo=UTC),
        write_id="0" * 32,
        public=public,
        body=body,
    )


INIT = entry(1, "init", {"keys": KEYS.to_public()}, None, None)
HOLD = entry(2, "hold", {"backups": [], "held": True}, {}, parse_entry(INIT, HERE).digest)


@given(MANY)
@settings(max_examples=300, deadline=None)
def test_an_entry_of_the_log(changes: list[Change]) -> None:
    bad = changed(changes, HOLD, INIT)
    try:
        found = parse_entry(bad, HERE)
    except HistoryDamaged:
        return
    assert bad in (HOLD, INIT)
    assert found.data == bad


@given(MANY, st.sampled_from([1, 2, 3, 10**6, 10**12 - 1]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_log_with_anything_in_it(changes: list[Change], number: int, also_the_copy: bool) -> None:
    store = memory_store("log")
    for sequence, data in ((1, INIT), (2, HOLD)):
        for key in (layout.entry_key(sequence), layout.entry_copy_key(sequence)):
            store.put(key, data, mode=CREATE)
    bad = changed(changes, HOLD, INIT)
    for key in (layout.entry_key(number), layout.entry_copy_key(number))[: 1 + also_the_copy]:
        store.put(key, bad, mode=OVERWRITE)
    try:
        history = load_history(store, ADMIN)
    except (HistoryDamaged, WrongKey):
        assert number in (1, 2)
        assert also_the_copy
        return
    assert history.tip.data == (INIT if number == 2 and also_the_copy and bad != HOLD else HOLD)
    assert history.keys == KEYS


RECIPIENT = SecretRecipient("key", bytes(32))


@given(MANY)
@settings(max_examples=300, deadline=None)
def test_a_key_object(changes: list[Change]) -> None:
    store = memory_store("keys")
    names = {role: write_keyset(store, getattr(SECRETS, role), [RECIPIENT]) for role in ("writer", "reader", "admin")}
    keys = Keys(KEYS.recipients, KEYS.signers, names).to_public()
    store.put(layout.entry_key(1), entry(1, "init", {"keys": keys}, None, None), mode=CREATE)
    first, second = (layout.keyset_key(names["reader"], copy) for copy in layout.KEY_COPIES)
    good, other = store.get(first), store.get(layout.keyset_key(names["writer"], "a"))
    bad = changed(changes, good, other)
    store.put(first, bad, mode=OVERWRITE)
    assert unlock(store, "reader", [RECIPIENT]) == SECRETS.reader
    store.put(second, bad, mode=OVERWRITE)
    try:
        assert unlock(store, "reader", [RECIPIENT]) == SECRETS.reader
    except (Damaged, WrongKey):
        assert bad != good


@given(st.binary(max_size=200), st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_a_head_that_says_anything(data: bytes, text: str) -> None:
    store = memory_store("head")
    store.put(layout.entry_key(1), INIT, mode=CREATE)
    for hint in (data, b'{"anchor":' + text.encode() + b"}"):
        store.put(layout.HEAD, hint, mode=OVERWRITE)
        assert load_history(store, ADMIN).tip.sequence == 1
