"""Chunks out: by id, authenticated, each pack's beginning read once, neighbours read together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock

import pyarrow as pa

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ByteRange
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.vault import layout
from holdfast.engine.vault.backups import Backup
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.index import ChunkIndex, Location
from holdfast.engine.vault.pack import Codec, PackClass, PackHead, PackInfo, StoredChunk, head_bytes, read_head
from holdfast.engine.vault.tree import Segment, TreeRow, decode_segment, rows_of
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
    _names: dict[int, str] = field(default_factory=dict, repr=False)
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
        try:
            return self._read_at(name, found)
        except Damaged as damaged:
            data = self._elsewhere(name, found, damaged)
            if isinstance(data, Damaged):
                raise data from None
            return data

    def _read_at(self, name: bytes, place: Location) -> bytes:
        return self._open(name, place, self._fetch(place.pack, place.offset, place.offset + place.stored_bytes))

    def _elsewhere(self, name: bytes, tried: Location, damaged: Damaged) -> bytes | Damaged:
        """A chunk from another place it is said to lie at, or what was wrong with the first."""
        for place in self.index.places(name):
            if place != tried:
                try:
                    return self._read_at(name, place)
                except Damaged:
                    continue
        return damaged

    def read_many(self, names: Sequence[bytes]) -> dict[bytes, bytes]:
        """Several chunks, those near each other in a pack with one request. They are in memory together."""
        return dict(self._all_or_raise(names))

    def _all_or_raise(self, names: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
        for name, data in self.iter_many(names):
            if isinstance(data, Damaged):
                raise data
            yield name, data

    def iter_many(
        self, names: Iterable[bytes], *, most_bytes: int | None = None
    ) -> Iterator[tuple[bytes, bytes | Damaged]]:
        """The same, chunk by chunk; one that is damaged comes as its error.

        Args:
            most_bytes: how much they are together at most, where that is known. What goes beyond comes as an error: a
                tree may lie about the size of its objects.
        """
        wanted: dict[int, list[tuple[Location, bytes]]] = {}
        total = 0
        different = list(dict.fromkeys(names))
        for name, found in zip(different, self.index.find_many(different), strict=True):
            if found is None:
                yield name, self._nowhere(name)
                continue
            total += found.plain_bytes
            if most_bytes is not None and total > most_bytes:
                yield name, _larger_than_said(self.vault.store.name, most_bytes)
                continue
            wanted.setdefault(found.pack, []).append((found, name))
        for pack, places in wanted.items():
            for span in _spans(sorted(places, key=lambda place: place[0].offset)):
                yield from self._read_span(pack, span)

    def _read_span(self, pack: int, span: list[tuple[Location, bytes]]) -> Iterator[tuple[bytes, bytes | Damaged]]:
        start, end = span[0][0].offset, span[-1][0].offset + span[-1][0].stored_bytes
        try:
            data = memoryview(self._fetch(pack, start, end))
        except Damaged as damaged:
            for place, name in span:
                yield name, self._elsewhere(name, place, damaged)
            return
        for place, name in span:
            begin = place.offset - start
            try:
                yield name, self._open(name, place, data[begin : begin + place.stored_bytes])
            except Damaged as damaged:
                yield name, self._elsewhere(name, place, damaged)

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
        head = open_head(self.vault, info, data, self._where(pack))
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
        found = self._names.get(pack)
        if found is None:
            info = self.index.packs[pack]
            found = self._names[pack] = f"{self.vault.store.name}: {layout.pack_key(info.tier, info.pack_id)}"
        return found

    # -- trees -------------------------------------------------------------------------------------------------------

    def segment(self, name: bytes) -> pa.Table:
        """One part of a tree."""
        return decode_segment(self.read(name), f"{self.vault.store.name}: tree {name.hex()}")

    def part(self, part: Segment) -> pa.Table:
        """One part of a tree as a backup names it. Raises Damaged: it is another."""
        table = self.segment(part.chunk_id)
        first = table["path"][0].as_py()
        if table.num_rows != part.rows or first != part.first:
            raise Damaged(
                "a part of the tree is another than its backup names",
                where=self.vault.store.name,
                expected=f"{part.rows} objects from {part.first!r} on",
                found=f"{table.num_rows} from {first!r} on",
            )
        return table

    def rows(self, backup: Backup) -> Iterator[TreeRow]:
        """The objects of a backup in path order."""
        for part in backup.segments:
            yield from rows_of(self.part(part))

    def holds_any(self, backup: Backup, mark: str) -> bool:
        """Whether an object's path has this in it. Raises as `part`."""
        import pyarrow.compute as pc

        return any(pc.any(pc.match_substring(self.part(part)["path"], mark)).as_py() for part in backup.segments)

    def read_object(self, row: TreeRow) -> bytes:
        """An object whole, in memory, with the digest its backup names. Raises Damaged, NotEntitled."""
        found: dict[bytes, bytes] = {}
        for name, data in self.iter_many(row.chunks, most_bytes=row.size_bytes):
            if isinstance(data, Damaged):
                raise data
            found[name] = data
        whole = b"".join(found[name] for name in row.chunks)
        if digest_of(whole) != row.digest:
            raise Damaged(
                "an object's content is not what its backup names",
                where=row.path,
                expected=row.digest,
                found=digest_of(whole),
            )
        return whole


def open_head(vault: Vault, info: PackInfo, data: bytes, where: str) -> PackHead:
    """The beginning of a pack an index names. Raises Damaged, NotEntitled."""
    return read_head(data, vault.secrets, info.pack_id, where, generations=vault.history.keys.recipients)


def _larger_than_said(name: str, most_bytes: int) -> Damaged:
    return Damaged(
        "objects have more content than their backup says",
        where=name,
        expected=f"at most {most_bytes} bytes",
        found="more, named by somebody who has the writer's key",
    )


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
