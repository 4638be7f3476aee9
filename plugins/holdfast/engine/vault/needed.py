"""What of a vault is needed: the chunks of its live backups, and the objects that count."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace

from holdfast.engine.vault import layout
from holdfast.engine.vault.backups import live_backups
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.history import load_history
from holdfast.engine.vault.index import ChunkIndex
from holdfast.engine.vault.log import sequences
from holdfast.engine.vault.reading import ChunkReader
from holdfast.engine.vault.tree import Segment
from holdfast.engine.vault.vault import Vault


@dataclass(frozen=True)
class NeededChunks:
    """The chunks live backups need.

    Args:
        names: their ids.
        bytes_by_pack: by pack id that has some, how much of it.
        backups: how many backups need them.
        unreadable: by entry, why of others nothing can be restored, so that they need nothing.
    """

    names: set[bytes]
    bytes_by_pack: dict[bytes, int]
    backups: int
    unreadable: dict[int, str]


def needed_chunks(vault: Vault, index: ChunkIndex) -> NeededChunks:
    """Walk the trees of all live backups. Raises Damaged: one cannot be read, or a chunk is gone.

    A backup whose entry itself cannot be read needs nothing: its bytes are signed, and will never say more. One of a
    later format is no such backup: a log that has one is not followed at all.
    """
    reader = ChunkReader(vault, index)
    unreadable: dict[int, str] = {}
    backups = live_backups(vault, unreadable=unreadable)
    by_number: dict[int, int] = {}
    seen: set[bytes] = set()
    for name in _names(reader, (part for backup in backups for part in backup.segments)):
        if name not in seen:
            seen.add(name)
            found = reader.locate(name)
            by_number[found.pack] = by_number.get(found.pack, 0) + found.stored_bytes
    by_pack = {index.packs[number].pack_id: size for number, size in by_number.items()}
    return NeededChunks(seen, by_pack, len(backups), unreadable)


def freed_bytes(vault: Vault, forgotten: Iterable[int]) -> int:
    """What collections would free once some backups were forgotten: packs nobody needs then.

    Packs of which a part is needed still are not counted; a collection with the reader's keys frees of those as well.

    Args:
        forgotten: numbers of the backups' entries.

    Raises:
        Damaged: it cannot be told.
    """
    gone = set(forgotten)
    index = vault.load_index().index
    history = vault.history
    left = replace(history, backups={number: entry for number, entry in history.backups.items() if number not in gone})
    needed = (
        needed_chunks(vault, index).bytes_by_pack.keys() - needed_chunks(vault.at(left), index).bytes_by_pack.keys()
    )
    return sum(info.size_bytes for info in index.packs if info.pack_id in needed)


def _names(reader: ChunkReader, segments: Iterable[Segment]) -> Iterator[bytes]:
    for segment in dict.fromkeys(part.chunk_id for part in segments):
        yield segment
        yield from reader.segment(segment)["chunks"].combine_chunks().flatten().to_pylist()


def counting_keys(vault: Vault) -> frozenset[str]:
    """The keys of all objects of the vault that something depends on: without one of them, something is lost.

    Not among them: the head, packs only forgotten backups need, entries an anchor took the place of, and witnesses,
    which lie elsewhere.

    Raises:
        HistoryDamaged: it cannot be told.
    """
    vault = vault.at(load_history(vault.store, vault.secrets, hinted=False))
    history = vault.history
    index = vault.load_index().index
    try:
        needed: Container[bytes] = needed_chunks(vault, index).bytes_by_pack
    except Damaged:  # which are needed cannot be told: all of them may be
        needed = {info.pack_id for info in index.packs}
    keys = {layout.pack_key(info.tier, info.pack_id) for info in index.packs if info.pack_id in needed}
    keys |= {layout.index_key(name) for name in history.indexes}
    for number in set(sequences(vault.store)) - set(history.stale):
        keys |= {layout.entry_key(number), layout.entry_copy_key(number)}
    for keyset in history.keys.keysets.values():
        keys |= {layout.keyset_key(keyset, copy) for copy in layout.KEY_COPIES}
    return frozenset(keys)
