"""Packs: many encrypted chunks in one write-once object, with a table at the end that rebuilds a lost index.

::

    magic "HFVP" | version | class | generation (2) | repository (16) | pack id (16) | commitment (32)
    | length of the sealed key (2) | sealed key | chunks … | sealed table | length of the table (4) | "HFVE"

A chunk is AES-256-GCM under the pack's key, nonce its position, additional data what `_context` says. Content packs
seal their key to the reader's public key, so who wrote one cannot read it; tree packs derive it from the metadata key.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Container
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from blake3 import blake3

from holdfast.engine.vault.crypto import HPKE_BYTES, TAG_BYTES, ObjectKey, nonce, open_sealed, seal, seal_to, unseal
from holdfast.engine.vault.errors import Damaged, NotEntitled, WrongKey
from holdfast.engine.vault.secrets import Secrets
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

_MAGIC = b"HFVP"
_END = b"HFVE"
_VERSION = 1
_HEAD = struct.Struct(">4sBBH16s16s32sH")
_ROW = struct.Struct(">32sQIIB")
_TAIL = struct.Struct(">I4s")
_SECRET_BYTES = 32
#: What a reader asks for first when it rebuilds: holds the tail and the table of nearly every pack.
TAIL_READ_BYTES = 64 * 1024
CHUNK_ID_BYTES = 32
#: No pack is larger: where chunks lie in it is 32 bits in an index.
MOST_PACK_BYTES = 2**32 - 1
TABLE_KIND = b"T"
#: A decompressor is of one thread; to make one costs more than to use it on a small chunk.
_OF_THREAD = threading.local()


class PackClass(IntEnum):
    """What a pack holds, and so who may read it."""

    DATA = 1
    TREE = 2


#: The largest chunk of each class: whoever reads one makes room for what it says it becomes.
MOST_PLAIN_BYTES = {PackClass.DATA: 16 * 1024 * 1024, PackClass.TREE: 256 * 1024 * 1024}


class Codec(IntEnum):
    """How a chunk's bytes were made before they were encrypted."""

    RAW = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """Where one chunk lies in its pack.

    Args:
        offset: of its ciphertext, bytes from the pack's start.
        stored_bytes: of its ciphertext with the tag.
        plain_bytes: of its content.
        position: the how-manieth of the pack it is, from 0; its nonce.
    """

    chunk_id: bytes
    offset: int
    stored_bytes: int
    plain_bytes: int
    codec: Codec
    position: int


@dataclass(frozen=True)
class PackInfo:
    """One pack as an index names it. ``digest`` is BLAKE3 of the whole object, where it is known."""

    pack_id: bytes
    kind: PackClass
    tier: str
    size_bytes: int
    digest: bytes | None


def chunk_id(chunk_key: bytes, kind: PackClass, data: bytes | memoryview) -> bytes:
    """Keyed BLAKE3 of the class and the content. The class is in it: equal bytes of two classes are two chunks."""
    hasher = blake3(key=chunk_key)
    hasher.update(bytes([kind]))
    hasher.update(data)
    return hasher.digest()


def _context(repository: bytes, kind: PackClass, pack_id: bytes, name: bytes, codec: int, plain_bytes: int) -> bytes:
    return b"HFV1" + repository + bytes([kind]) + pack_id + name + bytes([codec]) + plain_bytes.to_bytes(4, "big")


def _sealed_for(repository: bytes, pack_id: bytes, generation: int) -> bytes:
    return b"holdfast vault 1|pack key|" + repository + pack_id + generation.to_bytes(2, "big")


class PackWriter:
    """One open pack in memory.

    Args:
        secrets: of whoever writes.
        kind: what it will hold.
        generation: of the reader's key.
        recipient: the reader's public key of that generation.
        capacity: bytes it may grow to.
        buffer: of an earlier one, to be used again where it is large enough: new memory costs more than encryption.
    """

    def __init__(
        self,
        secrets: Secrets,
        kind: PackClass,
        generation: int,
        recipient: X25519PublicKey,
        *,
        capacity: int,
        buffer: bytearray | None = None,
    ) -> None:
        self.kind = kind
        self.pack_id = os.urandom(16)
        self._secrets = secrets
        repository = secrets.repository
        if kind is PackClass.DATA:
            secret = os.urandom(_SECRET_BYTES)
            sealed = seal_to(recipient, secret, _sealed_for(repository, self.pack_id, generation))
        else:
            generation, secret, sealed = 0, secrets.metadata_key, b""
        self._key = ObjectKey.derive(secret, salt=self.pack_id, context=b"pack|" + repository + bytes([kind]))
        head = _HEAD.pack(
            _MAGIC, _VERSION, kind, generation, repository, self.pack_id, self._key.commitment, len(sealed)
        )
        self._buffer = buffer if buffer is not None and len(buffer) >= capacity else bytearray(capacity)
        self._view = memoryview(self._buffer)
        self._size = len(head) + len(sealed)
        self._view[: self._size] = head + sealed
        self.chunks: list[StoredChunk] = []

    @property
    def size_bytes(self) -> int:
        """What it holds so far."""
        return self._size

    def fits(self, plain_bytes: int) -> bool:
        """Whether a chunk of this size still goes in, the table included."""
        table = _ROW.size * (len(self.chunks) + 1) + 256
        return self._size + plain_bytes + TAG_BYTES + table <= len(self._buffer)

    def add(self, name: bytes, data: bytes | memoryview, codec: Codec, plain_bytes: int) -> StoredChunk:
        """Encrypt a chunk into it. The caller asked `fits`. Raises ConfigError: it is too large for its class."""
        if plain_bytes > MOST_PLAIN_BYTES[self.kind]:
            raise ConfigError(
                "this is too large for a chunk",
                expected=f"at most {MOST_PLAIN_BYTES[self.kind]} bytes",
                found=f"{plain_bytes} bytes",
                fix="Back up with larger `chunk_bytes`: an object's chunks are listed in one",
            )
        position, end = len(self.chunks), self._size + len(data) + TAG_BYTES
        context = _context(self._secrets.repository, self.kind, self.pack_id, name, codec, plain_bytes)
        self._key.aead.encrypt_into(nonce(position), data, context, self._view[self._size : end])
        chunk = StoredChunk(name, self._size, len(data) + TAG_BYTES, plain_bytes, codec, position)
        self._size = end
        self.chunks.append(chunk)
        return chunk

    def finish(self) -> bytes:
        """The whole object. Nothing may be added afterwards."""
        return self.finish_and_give_back()[0]

    def finish_and_give_back(self) -> tuple[bytes, bytearray]:
        """The same, and the buffer for the next."""
        rows = b"".join(
            _ROW.pack(chunk.chunk_id, chunk.offset, chunk.stored_bytes, chunk.plain_bytes, chunk.codec)
            for chunk in self.chunks
        )
        repository = self._secrets.repository
        table = seal(self._secrets.metadata_key, TABLE_KIND, repository, bytes([self.kind]) + self.pack_id + rows)
        tail = table + _TAIL.pack(len(table), _END)
        data = b"".join((self._view[: self._size], tail))
        self._view.release()
        buffer, self._buffer = self._buffer, bytearray()
        return data, buffer


@dataclass(frozen=True)
class PackHead:
    """The beginning of a pack, read and checked, with the key that opens its chunks."""

    pack_id: bytes
    kind: PackClass
    repository: bytes
    key: ObjectKey

    def open_chunk(self, chunk: StoredChunk, data: bytes | memoryview, chunk_key: bytes | None, where: str) -> bytes:
        """A chunk's content, authenticated and named anew.

        Args:
            chunk_key: what names it; ``None``: not done here, the caller compares the content with a digest it trusts.

        Raises:
            Damaged: a bit of it is wrong, it is another chunk, or it does not decompress to its size.
        """
        from cryptography.exceptions import InvalidTag

        context = _context(self.repository, self.kind, self.pack_id, chunk.chunk_id, chunk.codec, chunk.plain_bytes)
        if chunk.plain_bytes > MOST_PLAIN_BYTES[self.kind]:
            raise Damaged(
                "a chunk says it is larger than any may be",
                where=where,
                expected=f"at most {MOST_PLAIN_BYTES[self.kind]} bytes",
                found=f"{chunk.plain_bytes} bytes",
            )
        try:
            plain = self.key.aead.decrypt(nonce(chunk.position), data, context)
        except (InvalidTag, ValueError):
            raise Damaged(
                "a chunk of this pack was changed",
                where=f"{where}, bytes {chunk.offset} to {chunk.offset + chunk.stored_bytes}",
                expected=f"the authentic chunk {chunk.chunk_id.hex()}",
                found="a wrong tag" if len(data) == chunk.stored_bytes else f"{len(data)} bytes",
                fix="Repair the vault from a mirror: `holdfast vault verify --repair`",
            ) from None
        if chunk.codec is Codec.ZSTD:
            plain = decompress(plain, chunk.plain_bytes, where)
        named = chunk_key is None or chunk_id(chunk_key, self.kind, plain) == chunk.chunk_id
        if len(plain) != chunk.plain_bytes or not named:
            raise Damaged(
                "a chunk's content is not what its name says",
                where=where,
                expected=chunk.chunk_id.hex(),
                found="other content, sealed by somebody who has the writer's key",
            )
        return plain


def decompress(data: bytes, plain_bytes: int, where: str) -> bytes:
    """One zstd frame that names this size, and nothing after it. Raises Damaged."""
    import zstandard

    decompressor = getattr(_OF_THREAD, "zstd", None)
    if decompressor is None:
        decompressor = _OF_THREAD.zstd = zstandard.ZstdDecompressor()
    try:
        size = zstandard.frame_content_size(data)
        if size != plain_bytes:
            raise Damaged(
                "compressed bytes name another size",
                where=where,
                expected=f"{plain_bytes} bytes",
                found=f"{size} bytes",
            )
        return bytes(decompressor.decompress(data, max_output_size=plain_bytes, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise Damaged("something does not decompress", where=where, found=str(error)) from None


def head_bytes(kind: PackClass) -> int:
    """How long a pack's beginning is."""
    return _HEAD.size + (_SECRET_BYTES + HPKE_BYTES if kind is PackClass.DATA else 0)


def read_head(
    data: bytes, secrets: Secrets, pack_id: bytes, where: str, *, generations: Container[int] | None = None
) -> PackHead:
    """Read the beginning of a pack and find its key.

    Args:
        data: at least its first `head_bytes`.
        pack_id: which one it must be.
        generations: of the reader's key there are, where it is known.

    Raises:
        Damaged: it is no pack, another one, of another repository, or its key was changed, or sealed to somebody else
            or to a key there never was.
        NotEntitled: content, and these secrets hold no key of its generation.
    """
    if len(data) < _HEAD.size:
        raise Damaged("the pack is cut short", where=where, expected=f"{_HEAD.size} bytes", found=f"{len(data)} bytes")
    magic, version, kind, generation, repository, found_id, commitment, sealed_bytes = _HEAD.unpack_from(data)
    if magic != _MAGIC or version != _VERSION or kind not in tuple(PackClass):
        raise Damaged(
            "this is no pack of a known format",
            where=where,
            expected=f"{_MAGIC!r} version {_VERSION}",
            found=f"{magic!r} version {version}, class {kind}",
            fix="A newer Holdfast may read it; else repair it from a mirror",
        )
    if repository != secrets.repository or found_id != pack_id:
        raise Damaged(
            "this is another pack than its name says",
            where=where,
            expected=f"{pack_id.hex()} of repository {secrets.repository.hex()}",
            found=f"{found_id.hex()} of repository {repository.hex()}",
        )
    if kind == PackClass.TREE:
        secret = secrets.metadata_key
    else:
        private = secrets.private_key(generation)
        if private is None and generations is not None and generation not in generations:
            raise Damaged(
                "the pack names a key there never was", where=where, found=f"a reader's key of generation {generation}"
            )
        if private is None:
            raise NotEntitled(
                "these keys do not open content",
                where=where,
                expected=f"a reader's key of generation {generation}",
                found=f"the keys of a {secrets.role}",
                fix="Unlock the vault with a recipient of the reader's key set",
            )
        sealed = data[_HEAD.size : _HEAD.size + sealed_bytes]
        try:
            secret = open_sealed(private, sealed, _sealed_for(repository, pack_id, generation), where)
        except WrongKey:
            raise _changed_head(where) from None
    key = ObjectKey.derive(secret, salt=pack_id, context=b"pack|" + repository + bytes([kind]))
    try:
        key.check(commitment, where)
    except WrongKey:
        raise _changed_head(where) from None
    return PackHead(pack_id, PackClass(kind), repository, key)


def _changed_head(where: str) -> Damaged:
    return Damaged(
        "the pack's key does not open: its beginning was changed, or whoever wrote it sealed it to somebody else",
        where=where,
        fix="Repair it from a mirror: `holdfast vault verify --repair`",
    )


def read_table(
    tail: bytes, size_bytes: int, secrets: Secrets, pack_id: bytes, where: str
) -> tuple[PackClass, list[StoredChunk]] | int:
    """The table at a pack's end.

    Args:
        tail: its last bytes.
        size_bytes: of the whole pack.

    Returns:
        Its class and chunks; or, when ``tail`` is too short, how many bytes of the end are needed.

    Raises:
        Damaged: the end is missing or was changed.
    """
    if len(tail) < _TAIL.size:
        raise Damaged("the pack is cut short", where=where, found=f"{size_bytes} bytes")
    table_bytes, end = _TAIL.unpack_from(tail, len(tail) - _TAIL.size)
    if end != _END or table_bytes + _TAIL.size > size_bytes:
        raise Damaged("the pack's end is missing", where=where, expected=f"{_END!r}", found=f"{end!r}")
    if table_bytes + _TAIL.size > len(tail):
        if len(tail) >= size_bytes:
            raise Damaged("the pack is cut short", where=where, found=f"{size_bytes} bytes")
        return int(table_bytes + _TAIL.size)
    sealed = tail[len(tail) - _TAIL.size - table_bytes : len(tail) - _TAIL.size]
    rows = unseal(secrets.metadata_key, TABLE_KIND, secrets.repository, sealed, where)
    if rows[1:17] != pack_id or (len(rows) - 17) % _ROW.size or rows[0] not in tuple(PackClass):
        raise Damaged("the pack's table is another pack's", where=where, expected=pack_id.hex(), found=rows[1:17].hex())
    kind = PackClass(rows[0])
    found = list(_ROW.iter_unpack(rows[17:]))
    if not _is_gapless(kind, found, size_bytes - table_bytes - _TAIL.size):
        raise Damaged(
            "the pack's table places chunks where none can be",
            where=where,
            expected="chunks one after the other from its beginning to its table",
            found="others, sealed by somebody who has the writer's key",
        )
    return kind, [
        StoredChunk(name, offset, stored, plain, Codec(codec), position)
        for position, (name, offset, stored, plain, codec) in enumerate(found)
    ]


def _is_gapless(kind: PackClass, rows: list[tuple[bytes, int, int, int, int]], end: int) -> bool:
    place = head_bytes(kind)
    for _, offset, stored, plain, codec in rows:
        if offset != place or not is_possible(kind, stored, plain, codec):
            return False
        place += stored
    return place == end


def is_possible(kind: PackClass, stored_bytes: int, plain_bytes: int, codec: int) -> bool:
    """Whether a chunk can have these sizes."""
    if codec == Codec.RAW:
        return stored_bytes == plain_bytes + TAG_BYTES and plain_bytes <= MOST_PLAIN_BYTES[kind]
    return codec == Codec.ZSTD and stored_bytes > TAG_BYTES and plain_bytes <= MOST_PLAIN_BYTES[kind]
