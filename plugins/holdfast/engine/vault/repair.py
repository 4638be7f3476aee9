"""Repair: put back what is missing or damaged, from copies, from packs' own tables, and from mirrors; at a mirror, too.

Whatever is put back was checked before: an entry by its signature and the chain, an index or a pack by the digest the
log or an index names. Broken off anywhere it can be run again; where nothing is wrong it does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from blake3 import blake3

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.vault import layout
from holdfast.engine.vault.append import append
from holdfast.engine.vault.backups import live_backups
from holdfast.engine.vault.erasure_repair import SharesReport
from holdfast.engine.vault.errors import Damaged, Outdated, WrongKey
from holdfast.engine.vault.history import write_hint
from holdfast.engine.vault.index import ChunkIndex, IndexedPack, batches, encode_index, part_of
from holdfast.engine.vault.log import LogEntry
from holdfast.engine.vault.mirror import MirrorReport, mirror_vault
from holdfast.engine.vault.objects import create_new, get_if_there
from holdfast.engine.vault.pack import PackClass, read_table
from holdfast.engine.vault.reading import ChunkReader, open_head
from holdfast.engine.vault.repair_log import Repaired, repair_keys, repair_log
from holdfast.engine.vault.secrets import Secrets
from holdfast.engine.vault.vault import Vault, index_digest
from holdfast.engine.vault.verify import Depth, VerifyOptions, VerifyReport, verify_vault


@dataclass(frozen=True)
class RepairOptions:
    """How to repair.

    Args:
        depth: how packs are looked at; only a full read finds every damaged one.
        accept_loss: where entries of the log are nowhere any more, go on with what is left. Otherwise the alarm stays.
        reader: the reader's secrets; with them every chunk of content is opened, else packs are told by their digests
            alone, which those have not whose index was lost.
        protect: told the key of each new object, to lock it.
        progress: as of verifying.
    """

    depth: Depth = Depth.FULL
    accept_loss: bool = False
    reader: Secrets | None = field(default=None, repr=False)
    protect: Callable[[str], None] = lambda _key: None
    progress: Callable[[int, int], None] = lambda _done, _all: None


@dataclass
class RepairReport(Repaired):
    """What a repair did.

    Args:
        vault: as of after it.
        verified: how it is now.
        shares: of a vault of shares, what was done to them before; ``None``: it is none.
        hidden: what was deleted from a bucket with locks and could not be made visible again, one sentence each. Where
            something needed is missing for it still, `verified` says so.
    """

    vault: Vault | None = None
    verified: VerifyReport | None = None
    shares: SharesReport | None = None
    hidden: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """4: something is wrong still; 1: a part of what protects it is missing, or could not be told; 0: neither."""
        if self.lost or self.verified is None or (self.shares is not None and self.shares.failed):
            return Damaged.exit_code
        away = self.shares is not None and not self.shares.is_whole
        return max(self.verified.exit_code, 1 if away else 0)

    @property
    def is_whole(self) -> bool:
        """Nothing is wrong any more, and nothing lacks."""
        return self.exit_code == 0


def repair_vault(
    vault: Vault, mirrors: Sequence[ObjectStore] = (), options: RepairOptions | None = None
) -> RepairReport:
    """Repair a vault. What one mirror has not another may; lost, and accepted as lost, is what none of them has.

    Args:
        vault: opened by anybody whom the store lets overwrite; an administrator where a lost index or entry has to be
            replaced by a new one. With a reader's keys every chunk is opened, else its pack's digest is compared.
            Where so much of its log is gone that it does not open: opened at the mirror, with its own store put in.
        mirrors: other copies of it.

    Raises:
        HistoryDamaged: vault and mirrors hold two histories, and the witnesses do not say which is right.
        NotEntitled: a loss is to be accepted, and the keys are not an administrator's.
    """
    options = options or RepairOptions()
    report = RepairReport(protect=options.protect)
    vault = repair_log(vault, mirrors, report, accept_loss=options.accept_loss)
    repair_keys(vault, mirrors, report)
    if mirrors:
        _put_indexes_back(vault, mirrors, report)
        _put_packs_back(vault, mirrors, report, options)
    if vault.alarm is None:
        vault = vault.again(lambda fresh: _name_again(fresh, mirrors, report, options))
    report.vault = vault.reload()
    report.verified = _verified(report.vault, options)
    return report


def repair_mirror(
    vault: Vault, mirror: ObjectStore, options: RepairOptions | None = None
) -> tuple[RepairReport, MirrorReport]:
    """Bring a mirror up to its vault, and write anew what is missing or damaged there.

    What the mirror has and is right is read there and not copied again.

    Args:
        vault: opened by anybody; the mirror must let overwrite. With a reader's keys every chunk is opened.
        options: `protect` locks at the mirror; no loss is accepted.

    Returns:
        What was put back, and what the mirror did not have yet.

    Raises:
        RolledBack, HistoryDamaged: the vault's own log is not right, or the mirror holds another history.
    """
    options = options or RepairOptions()
    if vault.alarm is not None:
        raise vault.alarm
    report = RepairReport(protect=options.protect)
    store = vault.store
    copied = mirror_vault(
        store,
        mirror,
        protect=options.protect,
        heal_entry=lambda key, data: report.put(mirror, key, data, store.name),
    )
    there = replace(vault, store=mirror, witnesses={}, protect=options.protect).reload(hinted=False)
    repair_keys(there, (store,), report)
    _put_indexes_back(there, (store,), report)
    before = len(report.healed)
    found = _put_packs_back(there, (store,), report, options)
    report.vault = there
    report.verified = found if len(report.healed) == before else _verified(there, options)
    return report, copied


def _verified(vault: Vault, options: RepairOptions) -> VerifyReport:
    return verify_vault(_as_reader(vault, options), VerifyOptions(depth=options.depth, progress=options.progress))


def _as_reader(vault: Vault, options: RepairOptions) -> Vault:
    return vault if options.reader is None else replace(vault, secrets=options.reader)


def _put_indexes_back(vault: Vault, mirrors: Sequence[ObjectStore], report: RepairReport) -> None:
    for name, digest in vault.history.indexes.items():
        key = layout.index_key(name)
        if _digest_at(vault.store, key) == digest:
            continue
        for mirror in mirrors:
            data = get_if_there(mirror, key)
            if data is not None and index_digest(data) == digest:
                report.put(vault.store, key, data, mirror.name)
                break


def _put_packs_back(
    vault: Vault, mirrors: Sequence[ObjectStore], report: RepairReport, options: RepairOptions
) -> VerifyReport:
    """Packs an index names and that are missing or damaged. Returns what was found before."""
    found = _verified(vault, options)
    reading = _as_reader(vault, options)
    wanted = {bytes.fromhex(name) for name in (*found.missing_packs, *found.damaged_packs)}
    index = vault.load_index().index
    used = _look(vault, index).used
    for number, info in enumerate(index.packs):
        if info.pack_id not in wanted:
            continue
        key = layout.pack_key(info.tier, info.pack_id)
        tried: list[str] = []
        for mirror in mirrors:
            data, where = get_if_there(mirror, key), f"{mirror.name}: {key}"
            why = "it is not there" if data is None else _why_wrong(reading, index, number, data, where)
            if data is not None and why is None:
                report.put(vault.store, key, data, mirror.name)
                break
            tried.append(f"{mirror.name}: {why}")
        else:
            if info.pack_id in used:
                report.lost.append(f"{key} cannot be put back from {'; '.join(tried)}")
    return found


def _why_wrong(vault: Vault, index: ChunkIndex, number: int, data: bytes, where: str) -> str | None:
    """What is wrong with the bytes of a pack, ``None`` when they are those that were written."""
    info = index.packs[number]
    if len(data) != info.size_bytes:
        return f"it has {len(data)} bytes; {info.size_bytes} were written"
    if info.digest is not None:
        return None if blake3(data).digest() == info.digest else "its bytes are not those that were written"
    # The index that knew its digest is lost: its own table, and its chunks where the keys open them.
    chunks = index.chunks_of(number)
    try:
        if read_table(data, len(data), vault.secrets, info.pack_id, where) != (info.kind, chunks):
            return "its table is another one"
        if info.kind is PackClass.TREE or vault.secrets.private:
            head = open_head(vault, info, data, where)
            for chunk in chunks:
                stored = data[chunk.offset : chunk.offset + chunk.stored_bytes]
                head.open_chunk(chunk, stored, vault.secrets.chunk_key, where)
    except (Damaged, WrongKey) as damaged:
        return str(damaged)
    return None


# -- what no index names any more --------------------------------------------------------------------------------------


def _name_again(vault: Vault, mirrors: Sequence[ObjectStore], report: RepairReport, options: RepairOptions) -> Vault:
    """A new index of packs that live backups need and no index names, and an entry that makes it count."""
    parts, errors = vault.read_indexes()
    presence = vault.packs_there()
    named = {pack_id for part in parts for pack_id in part.packs["pack_id"].to_pylist()}
    absent = named - presence.sizes.keys()
    tables: dict[bytes, IndexedPack] = {}

    def looked() -> _Look:
        without = frozenset(vault.history.collected) | absent
        return _look(vault, ChunkIndex([*parts, part_of(list(tables.values()))], without=without))

    look = looked()
    if not errors and not look.missing:
        return vault
    unnamed = [name for name in presence.sizes if name not in named and name not in vault.history.collected]
    tables.update((pack.info.pack_id, pack) for pack in vault.read_tables(presence, unnamed)[0])
    look = looked()
    while look.missing:
        reading, have = _as_reader(vault, options), {*named, *presence.sizes, *tables}
        found = (_bring(reading, mirror, have, look.missing, report) for mirror in mirrors)
        brought = next(filter(None, found), None)
        if brought is None:
            break
        tables.update((pack.info.pack_id, pack) for pack in brought)
        look = looked()
    # Where an index is lost, all of what it may have named: a backup that runs may reuse a pack no live one needs, and
    # learns that one was collected only of packs that are named.
    needed = [pack for name, pack in sorted(tables.items()) if errors or name in look.used]
    if not needed and not errors:
        return vault
    if vault.secrets.role != "admin":
        report.lost.append("an index is lost; an administrator's keys are needed to make another one count")
        return vault
    return _count(vault, parts_kept=_good_indexes(vault), needed=needed, report=report, options=options)


@dataclass(frozen=True)
class _Look:
    """Which packs live backups use, and which chunks of theirs are in none."""

    used: frozenset[bytes]
    missing: frozenset[bytes]


def _look(vault: Vault, index: ChunkIndex) -> _Look:
    reader = ChunkReader(vault, index)
    used: set[int] = set()
    missing: set[bytes] = set()
    for name in _names(vault, reader):
        found = index.find(name)
        if found is None:
            missing.add(name)
        else:
            used.add(found.pack)
    return _Look(frozenset(index.packs[number].pack_id for number in used), frozenset(missing))


def _names(vault: Vault, reader: ChunkReader) -> Iterator[bytes]:
    """Every chunk of every live backup; of a part of a tree that cannot be read, only itself."""
    for segment in dict.fromkeys(part.chunk_id for backup in live_backups(vault) for part in backup.segments):
        yield segment
        try:
            table = reader.segment(segment)
        except Damaged:
            continue
        yield from table["chunks"].combine_chunks().flatten().to_pylist()


def _bring(
    vault: Vault, mirror: ObjectStore, have: set[bytes], missing: frozenset[bytes], report: RepairReport
) -> list[IndexedPack]:
    """Packs of the mirror that hold chunks that are missing and that no index names."""
    there = replace(vault, store=mirror)
    presence = there.packs_there()
    brought: list[IndexedPack] = []
    for pack in there.read_tables(presence, [name for name in presence.sizes if name not in have])[0]:
        if not any(chunk.chunk_id in missing for chunk in pack.chunks):
            continue
        key = layout.pack_key(pack.info.tier, pack.info.pack_id)
        data = mirror.get(key)
        if _why_wrong(vault, ChunkIndex([part_of([pack])]), 0, data, f"{mirror.name}: {key}") is None:
            report.put(vault.store, key, data, mirror.name)
            brought.append(pack)
    return brought


def _good_indexes(vault: Vault) -> dict[bytes, str]:
    indexes = vault.history.indexes.items()
    return {name: digest for name, digest in indexes if _digest_at(vault.store, layout.index_key(name)) == digest}


def _count(
    vault: Vault,
    *,
    parts_kept: dict[bytes, str],
    needed: list[IndexedPack],
    report: RepairReport,
    options: RepairOptions,
) -> Vault:
    """Write the new index, and an anchor that names it beside those that are good."""
    store, secrets, history = vault.store, vault.secrets, vault.history
    indexes = dict(parts_kept)
    reading = _as_reader(vault, options)
    for batch in batches(_with_digest(reading, pack, options) for pack in needed):
        index_id, data = encode_index(batch, secrets.metadata_key, secrets.repository)
        create_new(store, layout.index_key(index_id), data)
        options.protect(layout.index_key(index_id))
        indexes[index_id] = index_digest(data)
        report.healed[layout.index_key(index_id)] = "the packs' own tables"

    def seen(entry: LogEntry) -> None:
        raise Outdated(
            "the vault was changed while it was repaired", found=f"entry {entry.sequence}", fix="Run it again"
        )

    def describe(tip: LogEntry | None) -> tuple[dict[str, object], dict[str, object]]:
        number = (tip.sequence if tip else 0) + 1
        dropped = {**history.dropped, **dict.fromkeys(history.indexes.keys() - indexes.keys(), number)}
        return {"state": history.state(indexes=indexes, dropped=dropped)}, {"dead_bytes": 0}

    entry = append(
        store,
        secrets,
        "collect",
        clock=vault.clock,
        tip=history.tip,
        describe=describe,
        seen=seen,
        signers=history.keys.signers,
    )
    report.entry = entry.sequence
    vault = vault.commit(entry)
    write_hint(store, vault.history)
    return vault


def _with_digest(vault: Vault, pack: IndexedPack, options: RepairOptions) -> IndexedPack:
    """The same pack with the digest of its bytes, where these were looked at and are right."""
    if options.depth is not Depth.FULL or not (pack.info.kind is PackClass.TREE or vault.secrets.private):
        return pack
    key = layout.pack_key(pack.info.tier, pack.info.pack_id)
    data = get_if_there(vault.store, key)
    if data is None or _why_wrong(vault, ChunkIndex([part_of([pack])]), 0, data, f"{vault.store.name}: {key}"):
        return pack
    return replace(pack, info=replace(pack.info, digest=blake3(data).digest()))


def _digest_at(store: ObjectStore, key: str) -> str | None:
    data = get_if_there(store, key)
    return None if data is None else index_digest(data)
