"""A writer's session: chunks in, each stored once; packs and indexes out, nothing of it live until the log says so."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from blake3 import blake3

from holdfast.engine.vault import layout
from holdfast.engine.vault.errors import CollectedMeanwhile
from holdfast.engine.vault.index import ChunkIndex, IndexedPack, batches, encode_index
from holdfast.engine.vault.log import LogEntry
from holdfast.engine.vault.objects import create_new
from holdfast.engine.vault.pack import Codec, PackClass, PackInfo, PackWriter, chunk_id
from holdfast.engine.vault.running import Marks
from holdfast.engine.vault.vault import Vault, index_digest

PACK_BYTES = 16 * 1024 * 1024
#: Packs of one class open at a time; a chunk goes to one of them by chance, so that neighbours in a pack say less
#: about the order of content.
_OPEN = 2
_UPLOADS = 3
_PROBE_BYTES = 4 * 1024
_WORTHWHILE = 0.95


@dataclass
class Stored:
    """What a session has stored so far."""

    packs: int = 0
    stored_bytes: int = 0
    new_chunks: int = 0
    new_bytes: int = 0
    reused_chunks: int = 0
    reused_bytes: int = 0


@dataclass
class Session:
    """Stores chunks of one backup.

    Args:
        vault: opened by a writer.
        index: the chunks that are there already.
        tier: retention tier of new packs.
        protect: told the key of every object that was written, to lock it.
        pack_bytes: how large a pack grows.
        adopt: packs known only from their own ends. An index names those that are reused: the lost one that did may be
            healed without them.
    """

    vault: Vault
    index: ChunkIndex
    tier: str
    protect: Callable[[str], None] = lambda _key: None
    pack_bytes: int = PACK_BYTES
    rng: random.Random = field(default_factory=random.SystemRandom)
    stored: Stored = field(default_factory=Stored)
    adopt: frozenset[bytes] = frozenset()

    def __post_init__(self) -> None:
        layout.check_tier(self.tier)
        self._open: dict[PackClass, list[PackWriter]] = {kind: [] for kind in PackClass}
        self._buffers: list[bytearray] = []
        self._new: set[bytes] = set()
        self._reused_packs: set[int] = set()
        self._finished: list[IndexedPack] = []
        self._indexes: list[tuple[bytes, str]] = []
        self._pool = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="vault-upload")
        self._uploads: list[Future[IndexedPack]] = []
        self._room = threading.BoundedSemaphore(_UPLOADS)
        self._chunk_key = self.vault.secrets.chunk_key
        self._marks = Marks(self.vault.store, self.vault.clock)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    # -- chunks ------------------------------------------------------------------------------------------------------

    def add(self, kind: PackClass, data: bytes | memoryview) -> bytes:
        """Store a chunk, unless it is there. Returns its id.

        Raises:
            ObjectStoreError: a pack could not be written.
        """
        name = chunk_id(self._chunk_key, kind, data)
        if not self.reuse(name, len(data)):
            self._store(kind, name, data)
        return name

    def reuse(self, name: bytes, plain_bytes: int) -> bool:
        """Whether a chunk is there, and if so depend on it."""
        if name not in self._new:
            found = self.index.find(name)
            if found is None:
                return False
            self._reused_packs.add(found.pack)
        self.stored.reused_chunks += 1
        self.stored.reused_bytes += plain_bytes
        return True

    def reuse_object(self, packs: Iterable[int], chunks: int, size_bytes: int) -> None:
        """Depend on all chunks of an object that did not change.

        Args:
            packs: the numbers of those they lie in.
        """
        self._reused_packs.update(packs)
        self.stored.reused_chunks += chunks
        self.stored.reused_bytes += size_bytes

    def _store(self, kind: PackClass, name: bytes, data: bytes | memoryview) -> None:
        codec, payload = self._encoded(data)
        pack = self._pack_with_room(kind, len(payload))
        pack.add(name, payload, codec, len(data))
        self._new.add(name)
        self.stored.new_chunks += 1
        self.stored.new_bytes += len(data)
        if pack.size_bytes >= self.pack_bytes:
            self._finish_pack(kind, pack)

    def _encoded(self, data: bytes | memoryview) -> tuple[Codec, bytes | memoryview]:
        if len(data) > 4 * _PROBE_BYTES:
            middle = len(data) // 2
            if len(self._zstd.compress(data[middle : middle + _PROBE_BYTES])) > _WORTHWHILE * _PROBE_BYTES:
                return Codec.RAW, data
        packed = self._zstd.compress(data)
        return (Codec.ZSTD, packed) if len(packed) < _WORTHWHILE * len(data) else (Codec.RAW, data)

    @cached_property
    def _zstd(self) -> Any:
        import zstandard

        return zstandard.ZstdCompressor(level=1, write_checksum=False)

    def _pack_with_room(self, kind: PackClass, size: int) -> PackWriter:
        opened = self._open[kind]
        wanted = _OPEN if kind is PackClass.DATA else 1
        if len(opened) < wanted and (not opened or all(pack.size_bytes > self.pack_bytes // 8 for pack in opened)):
            opened.append(self._new_pack(kind, size))
        pack = self.rng.choice(opened)
        if not pack.fits(size):
            self._finish_pack(kind, pack)
            pack = self._new_pack(kind, size)
            opened.append(pack)
        return pack

    def _new_pack(self, kind: PackClass, size: int) -> PackWriter:
        keys = self.vault.history.keys
        largest = max(size, 1024 * 1024)
        return PackWriter(
            self.vault.secrets,
            kind,
            keys.generation,
            self._recipient,
            capacity=self.pack_bytes + largest + 512 * 1024,
            buffer=self._buffers.pop() if self._buffers else None,
        )

    @cached_property
    def _recipient(self) -> Any:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        keys = self.vault.history.keys
        return X25519PublicKey.from_public_bytes(keys.recipients[keys.generation])

    # -- packs and indexes -------------------------------------------------------------------------------------------

    def _finish_pack(self, kind: PackClass, pack: PackWriter) -> None:
        self._open[kind].remove(pack)
        self._marks.write_if_due()
        data, buffer = pack.finish_and_give_back()
        self._buffers.append(buffer)
        self.stored.packs += 1
        self.stored.stored_bytes += len(data)
        self._room.acquire()
        upload = self._pool.submit(self._upload, pack, data)
        upload.add_done_callback(lambda _: self._room.release())
        self._uploads.append(upload)
        for done in [one for one in self._uploads if one.done()]:
            self._uploads.remove(done)
            self._finished.append(done.result())

    def _upload(self, pack: PackWriter, data: bytes) -> IndexedPack:
        key = layout.pack_key(self.tier, pack.pack_id)
        create_new(self.vault.store, key, data)
        self.protect(key)
        info = PackInfo(pack.pack_id, pack.kind, self.tier, len(data), blake3(data).digest())
        return IndexedPack(info, tuple(pack.chunks))

    def finish(self) -> list[tuple[bytes, str]]:
        """Write what is open, wait for everything, write the indexes. Returns their ids and digests."""
        for kind, opened in self._open.items():
            for writer in [one for one in opened if one.chunks]:
                self._finish_pack(kind, writer)
        for upload in self._uploads:
            self._finished.append(upload.result())
        self._uploads.clear()
        for batch in batches((*self._finished, *self._adopted())):
            self._write_index(batch)
        return self._indexes

    def _adopted(self) -> Iterator[IndexedPack]:
        for number in sorted(self._reused_packs):
            info = self.index.packs[number]
            if info.pack_id in self.adopt:
                yield IndexedPack(info, self.index.chunks_of(number))

    def _write_index(self, packs: list[IndexedPack]) -> None:
        secrets = self.vault.secrets
        index_id, data = encode_index(packs, secrets.metadata_key, secrets.repository)
        key = layout.index_key(index_id)
        create_new(self.vault.store, key, data)
        self.protect(key)
        self.stored.stored_bytes += len(data)
        self._indexes.append((index_id, index_digest(data)))

    # -- what others did meanwhile -----------------------------------------------------------------------------------

    @property
    def depends_on(self) -> frozenset[bytes]:
        """The packs this session's chunks lie in: reused and new."""
        reused = {self.index.packs[number].pack_id for number in self._reused_packs}
        return frozenset(reused | {pack.info.pack_id for pack in self._finished})

    def check_collected(self, entry: LogEntry) -> None:
        """Told of an entry that was written meanwhile. Raises CollectedMeanwhile."""
        if entry.kind != "collect":
            return
        gone = {bytes.fromhex(name) for name, _ in entry.public["state"]["collected"]} & self.depends_on
        dropped = {bytes.fromhex(name) for name, _ in entry.public["state"]["dropped"]}
        if gone or dropped & {index_id for index_id, _ in self._indexes}:
            raise CollectedMeanwhile(sorted(gone) or [b""])
