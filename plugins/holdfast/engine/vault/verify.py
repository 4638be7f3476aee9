"""Verify at three depths: that everything needed is there; that a sample opens; that every byte is right."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from blake3 import blake3

from holdfast.clock import Clock
from holdfast.engine.memory import blocks_kept
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.vault import layout
from holdfast.engine.vault.backups import Backup, live_backups
from holdfast.engine.vault.erasure import ErasureStore
from holdfast.engine.vault.errors import Damaged, HistoryDamaged, WrongKey
from holdfast.engine.vault.index import ChunkIndex
from holdfast.engine.vault.keysets import keyset_name
from holdfast.engine.vault.log import parse_entry
from holdfast.engine.vault.pack import PackClass, PackInfo, StoredChunk, read_table
from holdfast.engine.vault.parallel import each
from holdfast.engine.vault.reading import ChunkReader, open_head
from holdfast.engine.vault.vault import LoadedIndex, Vault
from holdfast.engine.vault.verify_shares import lacking_shares

_READERS = 2
#: Of small objects.
_COPY_READERS = 8


class Depth(StrEnum):
    """How much is read."""

    STRUCTURE = "structure"
    SAMPLE = "sample"
    FULL = "full"


@dataclass(frozen=True)
class VerifyOptions:
    """How to verify.

    Args:
        depth: how much is read.
        cycle: a sample reads each pack once in this time, whichever day it is run.
        now: which part of the cycle it is; by default the vault's clock.
        last: when the last sample ran; all parts since then are read. By default a day before.
        backups: only these; by default all live ones.
    """

    depth: Depth = Depth.STRUCTURE
    cycle: timedelta = timedelta(days=28)
    now: datetime | None = None
    last: datetime | None = None
    backups: tuple[Backup, ...] = ()
    progress: Callable[[int, int], None] = lambda _done, _all: None


@dataclass
class VerifyReport:
    """What was found.

    Args:
        problems: what is wrong, one sentence each.
        degraded: what restores all the same, but lacks a part of what makes it survive the next loss.
        unknown: what could not be told, because nobody who could tell answers: trying again may help.
        warnings: what somebody should know, and nothing is wrong for it.
        missing_packs, damaged_packs: ids.
        affected: by backup id, the paths that cannot be restored whole.
        packs_read, bytes_read: of the depth.
        content_opened: content was decrypted; else its digest was compared, which a pack without one passes unread.
    """

    depth: Depth
    backups: int = 0
    objects: int = 0
    packs: int = 0
    packs_read: int = 0
    bytes_read: int = 0
    content_opened: bool = False
    problems: list[str] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    missing_packs: list[str] = field(default_factory=list)
    damaged_packs: list[str] = field(default_factory=list)
    affected: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Everything that was to be read restores, and the history is the one that was witnessed."""
        return not self.problems and not self.unknown

    @property
    def exit_code(self) -> int:
        """4: something is wrong; 1: a part of what protects it is missing, or could not be told; 0: neither."""
        return Damaged.exit_code if self.problems else 1 if self.unknown or self.degraded else 0


def verify_vault(vault: Vault, options: VerifyOptions | None = None) -> VerifyReport:
    """Verify a vault. What is wrong is reported, not raised.

    Raises:
        HistoryDamaged: the log itself cannot be followed.
    """
    options = options or VerifyOptions()
    report = VerifyReport(options.depth)
    vault = vault.as_of_now(backup.sequence for backup in options.backups)
    if vault.alarm is not None:
        report.problems.append(str(vault.alarm))
    _verify_witnesses(vault, report)
    _verify_copies(vault, report)
    vault, loaded = vault.current_index(presence=True, torn=True)
    report.problems.extend(loaded.damaged)
    report.packs = len(loaded.index.packs)
    with blocks_kept():
        bad_chunks, read = _verify_packs(vault, loaded, options, report)
    for pack_id in loaded.missing_packs:
        report.missing_packs.append(pack_id.hex())
    unreadable: dict[int, str] = {}
    backups = options.backups or tuple(live_backups(vault, unreadable=unreadable))
    report.problems.extend(f"the backup of entry {number} cannot be read: {why}" for number, why in unreadable.items())
    reader = ChunkReader(vault, loaded.index)
    for backup in backups:
        _verify_backup(reader, loaded.index, backup, bad_chunks, report)
    report.backups = len(backups)
    if isinstance(vault.store, ErasureStore) and not options.backups:
        whole = options.depth is Depth.FULL
        lacking, away = lacking_shares(vault, vault.store, loaded.index, read, copies=whole)
        report.degraded.extend(lacking)
        report.warnings.extend(away)
    return report


def _verify_witnesses(vault: Vault, report: VerifyReport) -> None:
    """Whether anybody who saw the log could be asked; what they said is the vault's alarm."""
    seen = [witness for witness in vault.witnessed if witness.sequence is not None]
    away = [witness for witness in vault.witnessed if witness.unknown is not None]
    for witness in away:
        said = f"witness {witness.site} not reached, a rollback could not be checked against it: {witness.unknown}"
        (report.unknown if not seen else report.degraded if witness.refuses else report.warnings).append(said)
    for witness in vault.witnessed:
        if witness.unknown is None and witness.sequence is None and (seen or away):
            report.warnings.append(
                f"witness {witness.site} knows nothing of this vault: it is told the next entry; if it was told one "
                "before, somebody removed it"
            )
        elif witness.sequence is not None and witness.sequence < vault.history.tip.sequence:
            report.warnings.append(
                f"witness {witness.site} knows entry {witness.sequence}, the newest is {vault.history.tip.sequence}: "
                "that those between were removed would not show there"
            )
    if vault.witnessed and not seen and not away:
        report.problems.append(
            "no witness knows anything of this vault, so a rollback would not show: the next backup tells them; if "
            "they were told before, somebody removed what they knew"
        )


def _verify_copies(vault: Vault, report: VerifyReport) -> None:
    """Both copies of every entry and key object that counts are there and equal."""
    history = vault.history
    report.problems.extend(
        f"{vault.store.name}: {layout.entry_key(number)} is no entry of this log; it counts for nothing"
        for number in history.strays
    )
    pairs = [(layout.entry_key(number), layout.entry_copy_key(number), "") for number in history.counting]
    for keyset_id in history.keys.keysets.values():
        first, second = layout.KEY_COPIES
        pairs.append((layout.keyset_key(keyset_id, first), layout.keyset_key(keyset_id, second), keyset_id))
    for problems in each(partial(_verify_pair, vault), pairs, threads=_COPY_READERS):
        report.problems.extend(problems)


def _verify_pair(vault: Vault, pair: tuple[str, str, str]) -> list[str]:
    """What is wrong with two copies.

    Args:
        pair: their keys, and of a key object its name; else it is an entry.
    """
    history, problems = vault.history, list[str]()
    *keys, name = pair
    found: list[bytes] = []
    for key in keys:
        where = f"{vault.store.name}: {key}"
        try:
            data = vault.store.get(key)
            if not name:
                parse_entry(data, where, repository=history.repository)
            elif keyset_name(data) != name:
                problems.append(f"{where} was changed; its copy is used")
                continue
            found.append(data)
        except ObjectNotFound:
            # Of the newest entry it may just be on its way; whoever writes the next one makes up for it.
            if key != layout.entry_copy_key(history.tip.sequence):
                problems.append(f"{where} is missing; its copy is used")
        except HistoryDamaged as damaged:
            problems.append(f"{damaged} Its copy is used.")
    if len(found) == 2 and hashlib.sha256(found[0]).digest() != hashlib.sha256(found[1]).digest():
        problems.append(f"{vault.store.name}: {keys[0]} and {keys[1]} differ")
    return problems


def _verify_backup(
    reader: ChunkReader, index: ChunkIndex, backup: Backup, bad: set[bytes], report: VerifyReport
) -> None:
    """That every chunk of every object lies in a pack that is there and good."""
    affected: list[str] = []
    for part in backup.segments:
        try:
            rows = reader.part(part)
        except (Damaged, WrongKey) as damaged:
            report.problems.append(f"backup {backup.backup_id}: {part.rows} objects from {part.first!r} on: {damaged}")
            affected.append(part.describe())
            continue
        report.objects += rows.num_rows
        needed = rows["chunks"].combine_chunks().flatten().to_pylist()
        if -1 not in index.packs_of(needed) and bad.isdisjoint(needed):
            continue
        paths, chunks = rows["path"].to_pylist(), rows["chunks"].to_pylist()
        for path, names in zip(paths, chunks, strict=True):
            if any(name in bad or name not in index for name in names):
                affected.append(path)
    if affected:
        report.affected[backup.backup_id] = affected
        report.problems.append(
            f"backup {backup.backup_id} of {backup.source}: {len(affected)} objects cannot be restored, "
            f"the first {affected[0]!r}"
        )


def _verify_packs(
    vault: Vault, loaded: LoadedIndex, options: VerifyOptions, report: VerifyReport
) -> tuple[set[bytes], list[int]]:
    """Read the packs of the depth. Returns the chunks that are good in none of those they lie in, and what was read."""
    index = loaded.index
    assert loaded.there is not None
    sizes = {pack_id: size for pack_id, (_, size) in loaded.there.sizes.items()}
    torn = {number for number, info in enumerate(index.packs) if sizes[info.pack_id] != info.size_bytes}
    bad: dict[bytes, set[int]] = {}
    numbers: list[int] = []

    def found(number: int, problem: str, chunks: Iterable[bytes]) -> None:
        report.problems.append(problem)
        report.damaged_packs.append(index.packs[number].pack_id.hex())
        for name in chunks:
            bad.setdefault(name, set()).add(number)

    if options.depth is Depth.STRUCTURE:
        for number in sorted(torn):
            found(number, *_cut_short(vault, index, number, sizes[index.packs[number].pack_id]))
    else:
        numbers = _numbers(index, options, torn, vault.clock)
        report.content_opened = bool(vault.secrets.private)
        with ThreadPoolExecutor(_READERS) as pool:
            for done, (number, read, problem, chunks) in enumerate(
                pool.map(lambda number: _verify_pack(vault, index, number), numbers), start=1
            ):
                report.packs_read += 1
                report.bytes_read += read
                if problem is not None:
                    found(number, problem, chunks)
                options.progress(done, len(numbers))
    lost = {name for name, packs in bad.items() if packs >= {place.pack for place in index.places(name)}}
    return lost, numbers


def _numbers(index: ChunkIndex, options: VerifyOptions, torn: set[int], clock: Clock) -> list[int]:
    """Which packs are read: all, or those whose turn it is and those that are not whole."""
    if options.depth is Depth.FULL:
        return list(range(len(index.packs)))
    now = options.now or clock.now()
    last = options.last or now - timedelta(days=1)
    return [
        number
        for number, info in enumerate(index.packs)
        if number in torn or is_due(info.pack_id, last, now, options.cycle)
    ]


def _cut_short(vault: Vault, index: ChunkIndex, number: int, size: int) -> tuple[str, list[bytes]]:
    """What is wrong with a pack of another size than was written, and its chunks that cannot be there."""
    info = index.packs[number]
    lost = [chunk.chunk_id for chunk in index.chunks_of(number) if chunk.offset + chunk.stored_bytes > size]
    where = f"{vault.store.name}: {layout.pack_key(info.tier, info.pack_id)}"
    return f"{where} has {size} bytes; {info.size_bytes} were written", lost


def is_due(pack_id: bytes, last: datetime, now: datetime, cycle: timedelta) -> bool:
    """Whether a pack's place in the cycle lies between two moments: every pack's does within each whole cycle."""
    length = cycle.total_seconds()
    if (now - last).total_seconds() >= length:
        return True
    place = int.from_bytes(blake3(pack_id).digest(8), "big") / 2**64 * length
    begin, end = last.timestamp() % length, now.timestamp() % length
    return begin < place <= end if begin <= end else place > begin or place <= end


def _verify_pack(vault: Vault, index: ChunkIndex, number: int) -> tuple[int, int, str | None, Iterable[bytes]]:
    """One pack, read whole: its digest, and every chunk opened where the keys allow."""
    info = index.packs[number]
    key = layout.pack_key(info.tier, info.pack_id)
    where = f"{vault.store.name}: {key}"
    chunks = index.chunks_of(number)
    names = [chunk.chunk_id for chunk in chunks]
    try:
        data = vault.store.get(key)
    except ObjectNotFound:
        return number, 0, f"{where} is missing", names
    bad = list(_bad_chunks(vault, index, number, data, where))
    if bad:
        return number, len(data), f"{where}: {len(bad)} of {len(chunks)} chunks are damaged", bad
    if len(data) != info.size_bytes or (info.digest is not None and blake3(data).digest() != info.digest):
        opened = info.kind is PackClass.TREE or bool(vault.secrets.private)
        return number, len(data), f"{where}: its bytes are not those that were written", [] if opened else names
    if info.digest is None and not _has_its_table(vault, info, chunks, data, where):
        return number, len(data), f"{where}: the table at its end is damaged", []
    return number, len(data), None, ()


def _has_its_table(vault: Vault, info: PackInfo, chunks: list[StoredChunk], data: bytes, where: str) -> bool:
    """Whether a pack whose digest is not known ends with the table an index would be rebuilt from."""
    try:
        return read_table(data, len(data), vault.secrets, info.pack_id, where) == (info.kind, chunks)
    except (Damaged, WrongKey):
        return False


def _bad_chunks(vault: Vault, index: ChunkIndex, number: int, data: bytes, where: str) -> Iterable[bytes]:
    info = index.packs[number]
    if info.kind is PackClass.DATA and not vault.secrets.private:
        return
    chunks = index.chunks_of(number)
    try:
        head = open_head(vault, info, data, where)
    except Damaged:
        yield from (chunk.chunk_id for chunk in chunks)
        return
    view = memoryview(data)
    for chunk in chunks:
        try:
            stored = view[chunk.offset : chunk.offset + chunk.stored_bytes]
            head.open_chunk(chunk, stored, vault.secrets.chunk_key, where)
        except Damaged:
            yield chunk.chunk_id
