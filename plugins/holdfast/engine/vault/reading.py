"""Chunks out: by id, authenticated, each pack's beginning read once, neighbours read together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock

import pyarrow as pa

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ByteRange
from holdfast.engine.vault import layout
from holdfast.engine.vault.backups import Backup
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.index import ChunkIndex, Location
from holdfast.engine.vault.pack import Codec, PackClass, PackHead, StoredChunk, head_bytes, read_head
from holdfast.engine.vault.tree import TreeRow, decode_segment, rows_of
from holdfast.engine.vault.vault import Vault

#: Gaps between wanted chunks up to this size are read along: a request costs more.
_GAP_BYTES = 128 * 1024
_SPAN_BYTES = 8 * 1024 * 1024


@dataclass
class ChunkReader:
    """Reads chunks of a vault.

    Args:
        vault: opened by somebody who may read what is asked for: content needs a reader's key, trees do not.
        index: where chunks lie.
        names_content: content is named anew as it is read; not where each whole object is compared with its digest.
    """

    vault: Vault
    index: ChunkIndex
    names_content: bool = True
    read_bytes: int = 0
    _heads: OrderedDict[int, PackHead] = field(default_factory=OrderedDict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def locate(self, name: bytes) -> Location:
        """Raises Damaged: no pack that is there has it."""
        found = self.index.find(name)
        if found is None:
            raise self._nowhere(name)
        return found

    def _nowhere(self, name: bytes) -> Damaged:
        return Damaged(
            "a chunk is in no pack that is there",
            where=self.vault.store.name,
            expected=name.hex(),
            found="nothing",
            fix="Put its pack back from a mirror: `holdfast vault verify --repair`",
        )

    def read(self, name: bytes) -> bytes:
        """One chunk's content. Raises Damaged, NotEntitled."""
        found = self.locate(name)
        return self._open(name, found, self._fetch(found.pack, found.offset, found.offset + found.stored_bytes))

    def read_many(self, names: Sequence[bytes]) -> dict[bytes, bytes]:
        """Several chunks, those near each other in a pack with one request. They are in memory together."""
        return dict(self._all_or_raise(names))

    def _all_or_raise(self, names: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
        for name, data in self.iter_many(names):
            if isinstance(data, Damaged):
                raise data
            yield name, data

    def iter_many(self, names: Iterable[bytes]) -> Iterator[tuple[bytes, bytes | Damaged]]:
        """The same, chunk by chunk; one that is damaged comes as its error."""
        wanted: dict[int, list[tuple[Location, bytes]]] = {}
        different = list(dict.fromkeys(names))
        for name, found in zip(different, self.index.find_many(different), strict=True):
            if found is None:
                yield name, self._nowhere(name)
            else:
                wanted.setdefault(found.pack, []).append((found, name))
        for pack, places in wanted.items():
            for span in _spans(sorted(places, key=lambda place: place[0].offset)):
                yield from self._read_span(pack, span)

    def _read_span(self, pack: int, span: list[tuple[Location, bytes]]) -> Iterator[tuple[bytes, bytes | Damaged]]:
        start, end = span[0][0].offset, span[-1][0].offset + span[-1][0].stored_bytes
        try:
            data = memoryview(self._fetch(pack, start, end))
        except Damaged as damaged:
            for _, name in span:
                yield name, damaged
            return
        for place, name in span:
            begin = place.offset - start
            try:
                yield name, self._open(name, place, data[begin : begin + place.stored_bytes])
            except Damaged as damaged:
                yield name, damaged

    def _open(self, name: bytes, place: Location, data: bytes | memoryview) -> bytes:
        chunk = StoredChunk(
            name, place.offset, place.stored_bytes, place.plain_bytes, Codec(place.codec), place.position
        )
        head = self._head(place.pack)
        named = self.names_content or head.kind is not PackClass.DATA
        chunk_key = self.vault.secrets.chunk_key if named else None
        return head.open_chunk(chunk, data, chunk_key, self._where(place.pack))

    def _head(self, pack: int) -> PackHead:
        with self._lock:
            found = self._heads.get(pack)
            if found is not None:
                return found
        info = self.index.packs[pack]
        data = self._fetch(pack, 0, head_bytes(info.kind))
        head = read_head(data, self.vault.secrets, info.pack_id, self._where(pack))
        with self._lock:
            self._heads[pack] = head
            if len(self._heads) > 4096:
                self._heads.popitem(last=False)
        return head

    def _fetch(self, pack: int, start: int, end: int) -> bytes:
        info = self.index.packs[pack]
        key = layout.pack_key(info.tier, info.pack_id)
        try:
            data = self.vault.store.get(key, byte_range=ByteRange(start, end))
        except ObjectNotFound:
            raise Damaged(
                "a pack is missing",
                where=self._where(pack),
                expected=f"{info.size_bytes} bytes",
                found="nothing",
                fix="Put it back from a mirror: `holdfast vault verify --repair`",
            ) from None
        self.read_bytes += len(data)
        return data

    def _where(self, pack: int) -> str:
        info = self.index.packs[pack]
        return f"{self.vault.store.name}: {layout.pack_key(info.tier, info.pack_id)}"

    # -- trees -------------------------------------------------------------------------------------------------------

    def segment(self, name: bytes) -> pa.Table:
        """One part of a tree."""
        return decode_segment(self.read(name), f"{self.vault.store.name}: tree {name.hex()}")

    def rows(self, backup: Backup) -> Iterator[TreeRow]:
        """The objects of a backup in path order."""
        for part in backup.segments:
            yield from rows_of(self.segment(part.chunk_id))


def _spans(places: list[tuple[Location, bytes]]) -> Iterator[list[tuple[Location, bytes]]]:
    span: list[tuple[Location, bytes]] = []
    for place in places:
        if span:
            end = span[-1][0].offset + span[-1][0].stored_bytes
            far = place[0].offset - end > _GAP_BYTES
            long = place[0].offset + place[0].stored_bytes - span[0][0].offset > _SPAN_BYTES
            if far or long:
                yield span
                span = []
        span.append(place)
    if span:
        yield span
